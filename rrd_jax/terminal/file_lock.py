"""Exclusive locks of files, which the operating system releases when the process ends."""

import contextlib
import fcntl
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import IO

# Seconds between attempts to acquire a lock.
_POLL = 0.2


@contextlib.contextmanager
def exclusive(path: pathlib.Path, wait: Callable[[], None]) -> Iterator[None]:
    """Waits for the exclusive lock of a file, and holds it inside the `with` block.

    Nothing is locked if the folder is not writable, or its file system has no locks.

    Args:
      path: the lock file; created if missing, with its folder.
      wait: called before each further attempt; its exceptions end the wait.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("a"))
            while not _acquires(file):
                wait()
                time.sleep(_POLL)
        yield


def _acquires(file: IO[str]) -> bool:
    """Locks a file; returns False if another process holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
