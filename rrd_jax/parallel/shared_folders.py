"""A check that all processes of a run see the same folder."""

import contextlib
import os
import pathlib
import socket
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from rrd_jax import errors
from rrd_jax.parallel import processes
from rrd_jax.terminal import interrupts

# Seconds after which a folder is not shared: NFS hides new folders for up to 30 seconds.
_PATIENCE = 40.0
_INTERVAL = 0.2
# The longest name of a host, in bytes.
_HOST_BYTES = 64


def check_shared(folder: pathlib.Path, remedy: str) -> None:
    """Raises an InputError in all processes if one does not see a folder of process 0.

    Process 0 writes a file with a random number, and all processes read this file.

    Args:
      folder: an existing folder of process 0, on a disk or in a bucket.
      remedy: the end of the message, such as "pass a --workdir on a disk that all hosts share".
    """
    if jax.process_count() == 1:
        return
    number = multihost_utils.broadcast_one_to_all(np.frombuffer(os.urandom(8), np.int32))
    path, token = folder / ".shared", number.tobytes().hex()
    processes.main_first(lambda: path.write_text(token) if processes.is_main() else None)
    reads = _reads(path, token)
    host = np.zeros(_HOST_BYTES, np.uint8)
    name = socket.gethostname().encode()[:_HOST_BYTES]
    host[: len(name)] = list(name)
    everyone = multihost_utils.process_allgather(np.append(host, np.uint8(reads)))
    if processes.is_main():
        path.unlink()
    missing = [
        f"process {process} on {row[:-1].tobytes().rstrip(bytes(1)).decode()}"
        for process, row in enumerate(everyone)
        if not row[-1]
    ]
    if missing:
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        raise errors.InputError(
            f"{folder} of process 0 is not visible to {', '.join(missing[:8])}{more}; {remedy}"
        )


def _reads(path: pathlib.Path, token: str) -> bool:
    """Returns True as soon as a file contains a token; False after `_PATIENCE` seconds."""
    end = time.monotonic() + _PATIENCE
    while True:
        with contextlib.suppress(OSError, ValueError):
            if path.read_text() == token:
                return True
        if time.monotonic() > end:
            return False
        interrupts.check()
        time.sleep(_INTERVAL)
