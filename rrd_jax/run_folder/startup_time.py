"""The time from the start of a command to its first training step, by phase."""

import os
import time

_ended: float | None = None  # End of the last phase; None while no phases are timed.
_spent: dict[str, float] = {}


def begin() -> None:
    """Starts timing, from the start of this process."""
    global _ended
    _ended = time.monotonic() - _age()
    _spent.clear()


def phase(name: str) -> None:
    """Ends a phase, which takes the time since the end of the last one."""
    global _ended
    if _ended is not None:
        now = time.monotonic()
        _spent[name] = _spent.get(name, 0.0) + now - _ended
        _ended = now


def end() -> dict[str, float] | None:
    """Stops timing; returns seconds by phase, None if timing had stopped before."""
    global _ended
    if _ended is None:
        return None
    _ended = None
    return dict(_spent)


def is_timing() -> bool:
    """Returns True before the first training step."""
    return _ended is not None


def format_phases(spent: dict[str, float]) -> str:
    """Formats seconds by phase as a line."""
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items())
    return f"time to first step: {sum(spent.values()):.1f} s ({parts})"


def _age() -> float:
    """Returns seconds since this process began, interpreter included; 0 if unknown."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        return now - ticks / os.sysconf("SC_CLK_TCK")
    except (AttributeError, IndexError, OSError, ValueError):
        return 0.0
