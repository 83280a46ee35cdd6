"""The CPU time of a reader; imported by readers, which run as scripts of this folder."""

import multiprocessing
import os
import pathlib
import time


def seconds() -> float:
    """Of this process and of its workers, which are not reaped yet."""
    total = time.process_time()
    for worker in multiprocessing.active_children():
        fields = pathlib.Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total
