"""How far a study is: how many runs have ended, what goes on, and how long the rest may take."""

import dataclasses
import pathlib
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.study import attempts, records
from experiments.study.plan import Plan
from rrd_jax import errors
from rrd_jax.run_folder import metrics_writer
from rrd_jax.terminal import console

_OFTEN = 1.0  # seconds between two looks at the folders, at least
_SHARE = 0.05  # of a core's time that looking may take


@dataclasses.dataclass(frozen=True)
class Count:
    """How much of a plan is there, as its folders say.

    Attributes:
      runs: all of them.
      finished: those that have made all epochs.
      failed: those that have not, and say why.
      begun: others that have made an epoch.
      epochs_left: of all runs.
      seconds: an epoch, in those that are finished; None where none is.
    """

    runs: int
    finished: int
    failed: int
    begun: int
    epochs_left: int
    seconds: float | None

    def left(self, jobs: int) -> float | None:
        """Seconds that the rest takes with so many runs at once, about; None if nothing ended."""
        return None if self.seconds is None else self.seconds * self.epochs_left / jobs


@dataclasses.dataclass
class _Item:
    """A run or a teacher.

    Attributes:
      folder: of it.
      label: what it is called.
      epochs: all that it makes.
      is_run: whether it is a run of the plan.
      size: of metrics.jsonl, when it was read last.
      row: its last one.
      is_told: whether its end was told, or was there before.
      begin: epochs that were there when the study was started.
    """

    folder: pathlib.Path
    label: str
    epochs: int
    is_run: bool
    size: int = 0
    row: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    is_told: bool = False
    begin: int = 0

    @property
    def epoch(self) -> int:
        """The last one that it has made."""
        return min(self.row.get("epoch", 0), self.epochs)

    def read(self) -> None:
        """Reads its figures again, where there are more."""
        try:
            size = (self.folder / "metrics.jsonl").stat().st_size
        except OSError:
            return
        if size != self.size:
            rows = records.rows(self.folder)
            self.size, self.row = size, rows[-1] if rows else {}


class Progress:
    """Says what has ended since it was asked last, and shows what goes on.

    Args:
      plan: the runs.
      launch: the name of this start.
    """

    def __init__(self, plan: Plan, launch: str):
        self._launch, self._began, self._next = launch, time.monotonic(), 0.0
        self._items = list(_items(plan))
        for item in self._items:
            item.read()
            item.begin, item.is_told = item.epoch, item.epoch >= item.epochs

    def look(self, processes: Iterable[int] = ()) -> None:
        """Prints a line for each run that has ended or failed, and shows those that go on.

        Args:
          processes: the workers on this machine; none where they are elsewhere.
        """
        start = time.monotonic()
        if start < self._next:
            return
        for item in self._items:
            item.read()
            if not item.is_told:
                self._tell(item)
        self._show(list(processes))
        self._next = time.monotonic() + max(_OFTEN, (time.monotonic() - start) / _SHARE)

    def finish(self) -> None:
        """Says what is left to be said, and takes the progress line off the screen."""
        self._next = 0.0
        self.look()
        console.clear()

    def _tell(self, item: _Item) -> None:
        runs = [item for item in self._items if item.is_run]
        error = attempts.failure(item.folder, self._launch)
        if item.epoch >= item.epochs:
            top1 = item.row.get("test/top1")  # of a run without labels there is none
            what = "done" if top1 is None else f"test top-1 {top1:.2f}"
        elif error:
            what = f"failed: {error}"
        else:
            return
        item.is_told = True
        ended = sum(item.is_told for item in runs)
        label = f"{ended} of {len(runs)}" if item.is_run else "teacher"
        console.print_row(label, [item.label, what])

    def _show(self, processes: list[int]) -> None:
        runs = [item for item in self._items if item.is_run]
        parts = [f"{sum(item.epoch >= item.epochs for item in runs)} of {len(runs)} runs"]
        epochs = sum(item.epochs for item in self._items)
        parts.append(f"{sum(item.epoch for item in self._items) / epochs:.0%} of all epochs")
        if left := self._left():
            parts.append(f"about {metrics_writer.duration(left)} left")
        console.progress("study", [*parts, *self._doing(processes)])

    def _left(self) -> float | None:
        """Seconds for the rest, at the rate of this start."""
        done = sum(item.epoch - item.begin for item in self._items)
        rest = sum(item.epochs - item.epoch for item in self._items if not item.is_told)
        return (time.monotonic() - self._began) / done * rest if done > 0 else None

    def _doing(self, processes: list[int]) -> list[str]:
        """What each worker does; of workers elsewhere, what has gone on since the start."""
        going = [item for item in self._items if not item.is_told]
        if not processes:
            return [_told(item) for item in going if item.epoch != item.begin]
        holders = {_holder(item.folder): item for item in going}  # of a run, then of its teacher
        return [
            _told(holders[process]) if process in holders else "a worker begins or waits"
            for process in processes
        ]


def _items(plan: Plan) -> Iterable[_Item]:
    for name, run in plan.runs.items():
        yield _Item(plan.folder / "runs" / name, run.label, run.epochs, is_run=True)
    for path, (run, i) in plan.teachers().items():
        part = run.job.teachers[i].part
        label = f"{part.training.network.model}, seed {part.training.seed}"
        yield _Item(plan.folder / path, label, part.training.epochs, is_run=False)


def _told(item: _Item) -> str:
    what = "" if item.is_run else "teacher "
    return f"{what}{item.label}: {item.epoch} of {item.epochs} epochs"


def _holder(folder: pathlib.Path) -> int:
    """The process that holds a run, or held it last; 0 for none."""
    try:
        found = re.match(r"process (\d+) ", (folder / "lock").read_text(errors="replace"))
    except OSError:
        return 0
    return int(found[1]) if found else 0


def count(plan: Plan) -> Count:
    """How much of a plan is there."""
    finished = failed = begun = left = epochs = 0
    seconds = 0.0
    for name, run in plan.runs.items():
        folder = plan.folder / "runs" / name
        rows = records.rows(folder)
        done = rows[-1]["epoch"] if rows else 0
        left += max(0, run.epochs - done)
        if done >= run.epochs:
            finished += 1
            took = _seconds(folder)
            seconds, epochs = seconds + took, epochs + (run.epochs if took else 0)
        elif records.error_of(folder):
            failed += 1
        elif done:
            begun += 1
    rate = seconds / epochs if epochs else None
    return Count(len(plan.runs), finished, failed, begun, left, rate)


def _seconds(folder: pathlib.Path) -> float:
    """Wall time of a finished run, over all its starts."""
    try:
        return float(errors.read_json(folder / "results.json")[-1]["seconds"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return 0.0
