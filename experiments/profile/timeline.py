"""Reads the times of instructions from a trace of JAX's profiler."""

import collections
import dataclasses
import pathlib
import re
import warnings
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import jax


class Event(NamedTuple):
    """A run of an instruction: its name, and its start and end in nanoseconds."""

    name: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class Timeline:
    """The times of a trace, averaged over devices.

    Attributes:
      seconds: time of each instruction, by name. Instructions that run at the same time share the
        time, so that all times add up to the time in which any instruction runs.
      calls: number of runs of each instruction, by name.
      window: seconds from the start of the first instruction to the end of the last.
    """

    seconds: dict[str, float]
    calls: dict[str, int]
    window: float

    @property
    def busy(self) -> float:
        """Seconds in which any instruction ran."""
        return sum(self.seconds.values())


def record(folder: pathlib.Path, steps: Callable[[], object]) -> pathlib.Path:
    """Traces a call of `steps` and returns the profiler's file."""
    options = jax.profiler.ProfileOptions()
    # Calls of Python functions would fill the trace.
    options.python_tracer_level = 0
    with jax.profiler.trace(str(folder), profiler_options=options):
        steps()
    return max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)


def read(path: pathlib.Path, module: str, runners: Collection[str]) -> Timeline:
    """Returns the times of a program's instructions in a trace.

    The trace of a CPU has events for the threads that run instructions. The trace of a GPU has
    events for the kernels of instructions, in the planes of the devices.

    Args:
      path: an xplane.pb file.
      module: name of the program.
      runners: names of loops and calls, which get only the time in which nothing else runs.
    """
    devices: dict[tuple, list[Event]] = collections.defaultdict(list)
    profile = jax.profiler.ProfileData.from_file(str(path))
    with warnings.catch_warnings():
        # The types of the extension module cause warnings.
        warnings.simplefilter("ignore", DeprecationWarning)
        for plane in profile.planes:
            for line in plane.lines:
                for event in line.events:
                    stats = dict(event.stats)
                    name = stats.get("hlo_op")
                    if name and stats.get("hlo_module", module) == module:
                        device = plane.name, stats.get("device_ordinal", 0)
                        run = Event(instruction(str(name)), event.start_ns, event.end_ns)
                        devices[device].append(run)
    accelerators = [key for key in devices if key[0].startswith("/device:")]
    return merge([devices[key] for key in accelerators or devices], runners)


def instruction(name: str) -> str:
    """Returns the instruction of an event's name, which may end with a custom call's target."""
    return re.sub(r"__\w+\$\w+$", "", name.removeprefix("%"))


def merge(devices: Collection[list[Event]], runners: Collection[str]) -> Timeline:
    """Returns the mean timeline of several devices, given the events of each device."""
    seconds: dict[str, float] = collections.defaultdict(float)
    calls: dict[str, int] = collections.Counter()
    window = 0.0
    for events in devices:
        window += max(e.end for e in events) - min(e.start for e in events)
        calls.update(event.name for event in events)
        for name, share in shares(events, runners).items():
            seconds[name] += share
    scale = 1e9 * max(len(devices), 1)
    seconds = {name: total / scale for name, total in seconds.items()}
    calls = {name: count // max(len(devices), 1) for name, count in calls.items()}
    return Timeline(seconds, calls, window / scale)


def shares(events: Iterable[Event], runners: Collection[str]) -> dict[str, float]:
    """Returns the nanoseconds of each instruction; instructions that run together share the time.

    A loop or call gets only the time in which nothing else runs.
    """
    borders = []
    for event in events:
        borders += [(event.start, 1, event.name), (event.end, -1, event.name)]
    borders.sort()
    active: dict[bool, dict[str, int]] = {True: {}, False: {}}
    total: dict[str, float] = collections.defaultdict(float)
    previous = 0.0
    for time, change, name in borders:
        running = active[False] or active[True]
        if running and time > previous:
            share = (time - previous) / sum(running.values())
            for key, count in running.items():
                total[key] += count * share
        previous = time
        kind = active[name in runners]
        kind[name] = kind.get(name, 0) + change
        if not kind[name]:
            del kind[name]
    return total
