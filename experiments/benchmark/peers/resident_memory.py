"""Measures the growth of resident memory during a call; needs only the standard library."""

import contextlib
import ctypes
import pathlib
from collections.abc import Callable

_STATUS, _CLEAR = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")


def growth(work: Callable[[], object]) -> int | None:
    """Returns the bytes by which resident memory grows during a call; None if Linux reports none.

    Args:
      work: called without arguments.
    """
    with contextlib.suppress(OSError, AttributeError):
        # Freed memory that is still resident would reduce the growth.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        # Resets the peak of resident memory.
        _CLEAR.write_text("5")
        before = _status("VmRSS")
        work()
        return max(0, _status("VmHWM") - before)
    except OSError:
        return None


def _status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().split("\n") if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
