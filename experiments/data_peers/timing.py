"""The timing of a reader; imported by the readers, which run as scripts of this folder."""

import json
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any


def report(
    next_batch: Callable[[], Any], task: dict[str, Any], versions: dict[str, str], skipped: int = 0
) -> Any:
    """Times batches after a warm-up; prints images per second and per CPU second as JSON.

    Args:
      next_batch: function that returns the next batch.
      task: the task of the benchmark.
      versions: versions of the libraries by name.
      skipped: number of batches before the warm-up.

    Returns:
      The last batch.
    """
    for _ in range(skipped + task["warm_up"]):
        next_batch()
    wall, cpu = time.perf_counter(), _cpu_seconds()
    for _ in range(task["batches"]):
        batch = next_batch()
    wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
    count = task["batches"] * task["batch_size"]
    print(json.dumps({"wall": count / wall, "cpu": count / cpu, "versions": versions}))
    return batch


def _cpu_seconds() -> float:
    """Returns the CPU time of this process and of its running workers."""
    total = time.process_time()
    for worker in multiprocessing.active_children():
        fields = pathlib.Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total
