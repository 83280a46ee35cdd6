"""A study on the console: the plan, the progress of its runs, and their results."""

import dataclasses
import pathlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.study import attempts, records, statistics
from experiments.study.plan import Plan
from rrd_jax import errors
from rrd_jax.run_folder import metrics_writer
from rrd_jax.terminal import console, tables

_INTERVAL = 1.0  # Seconds between two looks at the folders, at least.
_SHARE = 0.05  # Share of a core's time that looking at the folders may take.
_LISTED = 200  # Cells that a dry run lists.


@dataclasses.dataclass
class _Item:
    """A run or a teacher.

    Attributes:
      folder: its workdir.
      label: its name for the console.
      epochs: the number of epochs that it trains for.
      is_run: False for a teacher.
      size: of metrics.jsonl at the last reading.
      row: the last row of metrics.jsonl.
      is_reported: True once its end was printed, or if it had ended before.
      first: the epoch at the start of the command.
    """

    folder: pathlib.Path
    label: str
    epochs: int
    is_run: bool
    size: int = 0
    row: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    is_reported: bool = False
    first: int = 0

    @property
    def epoch(self) -> int:
        """The last finished epoch."""
        return min(self.row.get("epoch", 0), self.epochs)

    def read(self) -> None:
        """Reads metrics.jsonl again if it has grown."""
        try:
            size = (self.folder / "metrics.jsonl").stat().st_size
        except OSError:
            return
        if size != self.size:
            rows = records.rows(self.folder)
            self.size, self.row = size, rows[-1] if rows else {}


class Progress:
    """Prints runs as they end, and shows the runs in progress.

    Args:
      plan: the runs.
      launch: the name of this start of the command.
    """

    def __init__(self, plan: Plan, launch: str):
        self._launch, self._began, self._next = launch, time.monotonic(), 0.0
        self._items = list(_items(plan))
        for item in self._items:
            item.read()
            item.first, item.is_reported = item.epoch, item.epoch >= item.epochs

    def update(self) -> None:
        """Prints a line for each run that has ended or failed, and shows those in progress."""
        start = time.monotonic()
        if start < self._next:
            return
        for item in self._items:
            item.read()
            if not item.is_reported:
                self._report(item)
        self._show()
        self._next = time.monotonic() + max(_INTERVAL, (time.monotonic() - start) / _SHARE)

    def finish(self) -> None:
        """Prints the last lines, and clears the progress line."""
        self._next = 0.0
        self.update()
        console.clear()

    def _report(self, item: _Item) -> None:
        error = attempts.failure(item.folder, self._launch)
        if item.epoch >= item.epochs:
            top1 = item.row.get("test/top1")  # None for a run without labels.
            result = "done" if top1 is None else f"test top-1 {top1:.2f}"
        elif error:
            result = f"failed: {error}"
        else:
            return
        item.is_reported = True
        runs = [item for item in self._items if item.is_run]
        ended = sum(item.is_reported for item in runs)
        label = f"{ended} of {len(runs)}" if item.is_run else "teacher"
        console.print_row(label, [item.label, result])

    def _show(self) -> None:
        runs = [item for item in self._items if item.is_run]
        parts = [f"{sum(item.epoch >= item.epochs for item in runs)} of {len(runs)} runs"]
        total = sum(item.epochs for item in self._items)
        parts.append(f"{sum(item.epoch for item in self._items) / total:.0%} of all epochs")
        done = sum(item.epoch - item.first for item in self._items)
        rest = sum(item.epochs - item.epoch for item in self._items if not item.is_reported)
        if done > 0 and rest:
            left = (time.monotonic() - self._began) / done * rest
            parts.append(f"about {metrics_writer.duration(left)} left")
        for item in self._items:
            if not item.is_reported and item.epoch != item.first:
                kind = "" if item.is_run else "teacher "
                parts.append(f"{kind}{item.label}: {item.epoch} of {item.epochs} epochs")
        console.progress("study", parts)


def _items(plan: Plan) -> Iterator[_Item]:
    for name, run in plan.runs.items():
        yield _Item(plan.folder / "runs" / name, run.label, run.epochs, is_run=True)
    for path, (run, i) in plan.teachers().items():
        part = run.job.teachers[i].part
        label = f"{part.training.network.model}, seed {part.training.seed}"
        yield _Item(plan.folder / path, label, part.training.epochs, is_run=False)


def print_plan(plan: Plan, jobs: int) -> None:
    """Prints the runs, their states, and an estimate of the remaining time.

    Args:
      plan: the runs.
      jobs: runs that are made at once.
    """
    states: dict[str, str] = {}
    left, seconds, epochs = 0, 0.0, 0
    for name, run in plan.runs.items():
        folder = plan.folder / "runs" / name
        rows = records.rows(folder)
        epoch = rows[-1]["epoch"] if rows else 0
        left += max(0, run.epochs - epoch)
        is_failed = epoch < run.epochs and records.error_of(folder)
        states[name] = "failed" if is_failed else f"{epoch} of {run.epochs}"
        if epoch >= run.epochs and (took := _seconds(folder)):
            seconds, epochs = seconds + took, epochs + run.epochs
    cells = [cell for cell in plan.cells if cell.run in plan.runs]
    rows = [(cell.label, states[cell.run], cell.run) for cell in cells[:_LISTED]]
    console.print_table(("cell", "epochs", "run"), rows)
    if len(cells) > _LISTED:
        console.say(f"... and {len(cells) - _LISTED} more")
    failed = sum(state == "failed" for state in states.values())
    begun = sum(not state.startswith("0 ") for state in states.values()) - failed
    console.say(
        f"\n{len(cells)} cells, {len(plan.runs)} runs in {plan.folder / 'runs'}: {begun} begun or"
        f" finished, {failed} failed"
    )
    if teachers := plan.teachers():
        console.say(f"teachers, each trained once: {', '.join(teachers)}")
    if left and not epochs:
        console.say("the time is known once a run has finished: try --max_runs=1")
    elif left:
        rate = seconds / epochs
        duration = metrics_writer.duration(rate * left / jobs)
        console.say(
            f"about {duration} left, {jobs} at a time: {rate:.2g} s per epoch, {left:,} epochs"
        )


def _seconds(folder: pathlib.Path) -> float:
    """Returns the wall time of a finished run over all its starts; 0 if it is not known."""
    try:
        return float(errors.read_json(folder / "results.json")[-1]["seconds"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return 0.0


def print_results(plan: Plan) -> int:
    """Prints a table for each grid, and the errors of failed runs; returns their number."""
    record = records.read(plan.folder)
    for grid in record.grids:
        console.say(f"\n{grid.question}")
        console.print_table(*_table(grid))
        rows = [run.rows[-1] for run in grid.runs if run.finished]
        if rows and all(row.get(grid.metric) is None for row in rows):
            known = sorted({name for row in rows for name, x in row.items() if x is not None})
            console.warn(
                f"no finished run of grid '{grid.name}' has its metric '{grid.metric}'; they have"
                f" {', '.join(known)}"
            )
    runs = {run.name: run for grid in record.grids for run in grid.runs}.values()
    failed = [run for run in runs if run.error and run.name in plan.runs]
    labels: dict[str, list[str]] = {}  # By error, which many runs may share.
    for run in failed:
        labels.setdefault(run.error, []).append(run.label)
    for error, names in labels.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        console.warn(f"failed: {', '.join(names[:3])}{more}: {error}")
    states = Counter(run.state for run in runs)
    if missing := states["missing"] + states["begun"]:
        console.say(f"\n{missing} runs are not finished; the same command resumes them")
    return len(failed)


def _table(grid: records.GridRecord) -> tables.Table:
    """Returns header and rows of a grid: a row for each cell that has a finished run."""
    others = [factor["name"] for factor in grid.factors if factor["name"] != grid.compared]
    header = [*others, *filter(None, [grid.compared]), "n", "last epoch", "best epoch"]
    if grid.baseline:
        header += [f"over {grid.baseline}", "95 % interval", "p (Holm)", ""]
    rows = []
    for block, levels in grid.blocks().items():
        last = {level: records.values_by_seed(runs, grid.metric) for level, runs in levels.items()}
        found = {}
        if grid.baseline and last.get(grid.baseline):
            found = statistics.differences(last, grid.baseline)
        for level, runs in levels.items():
            if last[level]:
                best = statistics.summarize(records.values_by_seed(runs, grid.best))
                row = [*block, *([level] if grid.compared else []), str(len(last[level]))]
                row += [_mean(statistics.summarize(last[level])), _mean(best)]
                rows.append(row + (_difference(found.get(level)) if grid.baseline else []))
    return header, rows


def _mean(summary: statistics.Summary) -> str:
    if summary.mean is None:
        return "-"
    return f"{summary.mean:.2f}" + ("" if summary.std is None else f" +- {summary.std:.2f}")


def _difference(difference: statistics.Difference | None) -> list[str]:
    if difference is None or difference.mean is None:
        return ["-"] * 4
    if difference.p is None:
        return [f"{difference.mean:+.2f}", "-", "-", difference.verdict]
    # An interval without width would look like certainty.
    interval = "no spread"
    if difference.std:
        interval = f"{difference.low:+.2f} to {difference.high:+.2f}"
    p = f"{difference.p_adjusted:.3f}"
    return [f"{difference.mean:+.2f}", interval, p, difference.verdict]
