"""The times of instructions, from a trace of JAX's profiler."""

import collections
import dataclasses
import pathlib
import re
import warnings
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import jax


class Event(NamedTuple):
    """An instruction that ran, by name, from start to end in nanoseconds."""

    name: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Where the time of a trace went, the mean of the devices.

    Attributes:
      seconds: of each instruction. Where several run at once, each has its share of the time, so
        that all add up to the time in which any runs.
      calls: how often each ran.
      window: seconds from the first instruction's start to the last one's end.
    """

    seconds: dict[str, float]
    calls: dict[str, int]
    window: float

    @property
    def busy(self) -> float:
        """Seconds in which an instruction ran."""
        return sum(self.seconds.values())


def record(folder: pathlib.Path, steps: Callable[[], object]) -> pathlib.Path:
    """Traces what `steps` does; returns the file of the profiler."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # calls of Python functions would fill the trace
    with jax.profiler.trace(str(folder), profiler_options=options):
        steps()
    return max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)


def read(path: pathlib.Path, module: str, runners: Collection[str]) -> Timeline:
    """The instructions of a program in a trace.

    On a CPU they are events of the threads that ran them; on a GPU, of the kernels that they
    started, which a device's plane holds under the instruction's name.

    Args:
      path: an xplane.pb.
      module: the program's name.
      runners: names of loops and calls, whose time is that of what they run.
    """
    devices: dict[tuple, list[Event]] = collections.defaultdict(list)
    profile = jax.profiler.ProfileData.from_file(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the extension's own types
        for plane in profile.planes:
            for line in plane.lines:
                for event in line.events:
                    stats = dict(event.stats)
                    name = stats.get("hlo_op")
                    if name and stats.get("hlo_module", module) == module:
                        device = plane.name, stats.get("device_ordinal", 0)
                        found = Event(instruction(str(name)), event.start_ns, event.end_ns)
                        devices[device].append(found)
    of_devices = [key for key in devices if key[0].startswith("/device:")]
    return joined([devices[key] for key in of_devices or devices], runners)


def instruction(name: str) -> str:
    """An instruction's name from that of an event, where a custom call's target may follow it."""
    return re.sub(r"__\w+\$\w+$", "", name.removeprefix("%"))


def joined(devices: Collection[list[Event]], runners: Collection[str]) -> Timeline:
    """The mean timeline of devices, each given by its events."""
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
    """Nanoseconds of each instruction; those that run at once share the time equally.

    A loop or call has only the time in which nothing else runs.
    """
    borders = []
    for event in events:
        borders += [(event.start, 1, event.name), (event.end, -1, event.name)]
    borders.sort()
    active: dict[bool, dict[str, int]] = {True: {}, False: {}}
    total: dict[str, float] = collections.defaultdict(float)
    before = 0.0
    for time, change, name in borders:
        running = active[False] or active[True]
        if running and time > before:
            each = (time - before) / sum(running.values())
            for key, count in running.items():
                total[key] += count * each
        before = time
        kind = active[name in runners]
        kind[name] = kind.get(name, 0) + change
        if not kind[name]:
            del kind[name]
    return total
