"""How long a command takes to its first training step, by phase."""

import os
import time

_ended: float | None = None  # when the last phase did; None where nothing is counted
_spent: dict[str, float] = {}


def begin() -> None:
    """Counts from the start of this process on."""
    global _ended
    _ended = time.monotonic() - _age()
    _spent.clear()


def phase(name: str) -> None:
    """Says that the time since the end of the last phase went into this one."""
    global _ended
    if _ended is not None:
        now = time.monotonic()
        _spent[name] = _spent.get(name, 0.0) + now - _ended
        _ended = now


def end() -> dict[str, float] | None:
    """Seconds by phase at the end of the last one; None where nothing is counted any more."""
    global _ended
    if _ended is None:
        return None
    _ended = None
    return dict(_spent)


def counts() -> bool:
    """Whether the first training step is still to come."""
    return _ended is not None


def described(spent: dict[str, float]) -> str:
    """Seconds by phase, in words."""
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items())
    return f"first step after {sum(spent.values()):.1f} s: {parts}"


def _age() -> float:
    """Seconds since this process began, the interpreter's start included; 0 if nobody knows."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        return now - ticks / os.sysconf("SC_CLK_TCK")
    except (AttributeError, IndexError, OSError, ValueError):
        return 0.0
