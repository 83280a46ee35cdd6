"""The time from the start of a command to its first training step, by phase."""

import os
import time

# Start of the current phase; None while no phases are timed.
_phase_start: float | None = None
_spent: dict[str, float] = {}


def begin() -> None:
    """Starts timing, from the start of this process."""
    global _phase_start
    _phase_start = time.monotonic() - _age()
    _spent.clear()


def phase(name: str) -> None:
    """Ends the current phase and records its duration under a name."""
    global _phase_start
    if _phase_start is not None:
        now = time.monotonic()
        _spent[name] = _spent.get(name, 0.0) + now - _phase_start
        _phase_start = now


def end() -> dict[str, float] | None:
    """Stops timing and returns the seconds by phase; None if timing has already stopped."""
    global _phase_start
    if _phase_start is None:
        return None
    _phase_start = None
    return dict(_spent)


def is_timing() -> bool:
    """Returns True between `begin` and `end`, before the first training step."""
    return _phase_start is not None


def format_phases(spent: dict[str, float]) -> str:
    """Formats the seconds by phase for the log."""
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items())
    return f"time to first step: {sum(spent.values()):.1f} s ({parts})"


def _age() -> float:
    """Returns the seconds since this process started, including the interpreter; 0 if unknown."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        return now - ticks / os.sysconf("SC_CLK_TCK")
    except (AttributeError, IndexError, OSError, ValueError):
        return 0.0
