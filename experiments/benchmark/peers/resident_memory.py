"""How much memory a piece of work takes beyond what its process holds already; stands alone."""

import contextlib
import ctypes
import pathlib
from collections.abc import Callable

_STATUS, _CLEAR = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")


def growth(work: Callable[[], object]) -> int | None:
    """Bytes by which resident memory grows during some work; None where Linux does not say it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed is not to hide what is taken
    try:
        _CLEAR.write_text("5")  # the peak begins anew
        before = _status("VmRSS")
        work()
        return max(0, _status("VmHWM") - before)
    except OSError:
        return None


def _status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().split("\n") if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
