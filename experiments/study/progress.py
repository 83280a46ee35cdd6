"""How far a study is: how many runs have ended, what goes on, and how long the rest may take."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping

from experiments.study import records
from experiments.study.plan import Plan
from rrd_jax import console, errors, report


@dataclasses.dataclass(frozen=True)
class Count:
    """Of a plan's runs: all, finished, failed, begun; epochs left; seconds an epoch, if known."""

    runs: int
    finished: int
    failed: int
    begun: int
    epochs_left: float
    seconds: float | None

    def left(self, jobs: int) -> float | None:
        """Seconds that the rest takes with so many runs at once, about; None if nothing ended."""
        return None if self.seconds is None else self.seconds * self.epochs_left / jobs


class Progress:
    """Says what has ended since it was asked last.

    Args:
      plan: the runs.
      jobs: that are made at once.
    """

    def __init__(self, plan: Plan, jobs: int):
        self._plan, self._jobs = plan, jobs
        self._sizes: dict[str, int] = {}
        self._rows: dict[str, Mapping] = {}
        self._began, self._made = time.monotonic(), 0.0
        self._told = set()
        self._start = {name: self._epoch(name) for name in plan.runs}
        self._told = {name for name, epoch in self._start.items() if epoch >= self._epochs(name)}

    def look(self) -> None:
        """Prints a line for each run that has ended, and shows those that go on."""
        going = []
        for name, run in self._plan.runs.items():
            epoch = self._epoch(name)
            if name not in self._told and epoch >= run.epochs:
                self._told.add(name)
                row = self._rows[name]
                console.print_row(
                    f"{len(self._told)} of {len(self._plan.runs)}",
                    [run.label, f"test top-1 {row.get('test/top1', float('nan')):.2f}"],
                )
            elif self._start[name] != epoch and epoch < run.epochs:
                going.append(f"{run.label}: {epoch} of {run.epochs}")
        parts = [f"{len(self._told)} of {len(self._plan.runs)} runs"]
        if left := self._left():
            parts.append(f"{report.duration(left)} left")
        console.progress("study", [*parts, *going])

    def _left(self) -> float | None:
        done = sum(self._epoch(name) - start for name, start in self._start.items())
        rest = sum(self._epochs(name) - self._epoch(name) for name in self._plan.runs)
        seconds = time.monotonic() - self._began
        return seconds / done * rest if done else None

    def _epochs(self, name: str) -> int:
        return self._plan.runs[name].epochs

    def _epoch(self, name: str) -> int:
        """Of a run, read again where its file has grown."""
        path = self._plan.folder / "runs" / name / "metrics.jsonl"
        try:
            size = path.stat().st_size
        except OSError:
            return 0
        if self._sizes.get(name) != size:
            found = records.rows(path.parent)
            self._sizes[name], self._rows[name] = size, found[-1] if found else {}
        return min(self._rows[name].get("epoch", 0), self._epochs(name))


def count(plan: Plan) -> Count:
    """Of the runs of a plan, from their folders."""
    finished = failed = begun = 0
    left = 0.0
    seconds, epochs = 0.0, 0
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
