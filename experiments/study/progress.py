"""A study on the console: the plan, the progress of its runs, and their results."""

import dataclasses
import pathlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.study import attempts, records, statistics
from experiments.study.plan import Plan
from rrd_jax import user_paths
from rrd_jax.run_folder import metrics_writer
from rrd_jax.terminal import console, tables

# Minimum number of seconds between two scans of the folders.
_INTERVAL = 1.0
# Maximum share of a core's time for scans of the folders.
_SHARE = 0.05
# Maximum number of cells that a dry run lists.
_LISTED = 200


@dataclasses.dataclass
class _Item:
    """A run or a teacher.

    Attributes:
      folder: the workdir.
      label: the name on the console.
      epochs: the number of epochs to train.
      is_run: False for a teacher.
      size: the size of metrics.jsonl when it was last read, in bytes.
      row: the last row of metrics.jsonl.
      is_reported: True if the end was printed, or came before the start of the command.
      first_epoch: the epoch at the start of the command.
    """

    folder: pathlib.Path
    label: str
    epochs: int
    is_run: bool
    size: int = 0
    row: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    is_reported: bool = False
    first_epoch: int = 0

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
            rows = records.read_rows(self.folder)
            self.size, self.row = size, rows[-1] if rows else {}


class Progress:
    """Prints a line for each run that ends, and a progress line for the current runs.

    Args:
      plan: the runs.
      launch: the name of this start of the command.
    """

    def __init__(self, plan: Plan, launch: str):
        self._launch, self._start, self._next = launch, time.monotonic(), 0.0
        self._items = list(_items(plan))
        for item in self._items:
            item.read()
            item.first_epoch, item.is_reported = item.epoch, item.epoch >= item.epochs

    def update(self) -> None:
        """Prints a line for each run that has ended or failed, and updates the progress line."""
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
            # Runs without labels have no accuracy.
            top1 = item.row.get("test/top1")
            result = "done" if top1 is None else f"test top-1 {top1:.2f}"
        elif error:
            result = f"failed: {error}"
        else:
            return
        item.is_reported = True
        runs = [item for item in self._items if item.is_run]
        reported = sum(item.is_reported for item in runs)
        label = f"{reported} of {len(runs)}" if item.is_run else "teacher"
        console.print_row(label, [item.label, result])

    def _show(self) -> None:
        runs = [item for item in self._items if item.is_run]
        parts = [f"{sum(item.epoch >= item.epochs for item in runs)} of {len(runs)} runs"]
        total = sum(item.epochs for item in self._items)
        parts.append(f"{sum(item.epoch for item in self._items) / total:.0%} of all epochs")
        done = sum(item.epoch - item.first_epoch for item in self._items)
        rest = sum(item.epochs - item.epoch for item in self._items if not item.is_reported)
        if done > 0 and rest:
            left = (time.monotonic() - self._start) / done * rest
            parts.append(f"about {metrics_writer.duration(left)} left")
        for item in self._items:
            if not item.is_reported and item.epoch != item.first_epoch:
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
    """Prints the runs, their states and an estimate of the remaining time.

    Args:
      plan: the runs.
      jobs: the number of concurrent runs.
    """
    states: dict[str, str] = {}
    left, seconds, epochs = 0, 0.0, 0
    for name, run in plan.runs.items():
        folder = plan.folder / "runs" / name
        rows = records.read_rows(folder)
        epoch = rows[-1]["epoch"] if rows else 0
        left += max(0, run.epochs - epoch)
        is_failed = epoch < run.epochs and records.read_error(folder)
        states[name] = "failed" if is_failed else f"{epoch} of {run.epochs}"
        if epoch >= run.epochs and (wall_time := _seconds(folder)):
            seconds, epochs = seconds + wall_time, epochs + run.epochs
    cells = [cell for cell in plan.cells if cell.run in plan.runs]
    rows = [(cell.label, states[cell.run], cell.run) for cell in cells[:_LISTED]]
    console.print_table(("cell", "epochs", "run"), rows)
    if len(cells) > _LISTED:
        console.say(f"... and {len(cells) - _LISTED} more")
    failed = sum(state == "failed" for state in states.values())
    started = sum(not state.startswith("0 ") for state in states.values()) - failed
    console.say(
        f"\n{len(cells)} cells, {len(plan.runs)} runs in {plan.folder / 'runs'}: {started} started"
        f" or finished, {failed} failed"
    )
    if teachers := plan.teachers():
        console.say(f"teachers (each is trained once): {', '.join(teachers)}")
    if left and not epochs:
        console.say("remaining time unknown: no run has finished; run once with --max_runs=1")
    elif left:
        rate = seconds / epochs
        duration = metrics_writer.duration(rate * left / jobs)
        console.say(
            f"about {duration} left with {jobs} concurrent runs: {rate:.2g} s per epoch,"
            f" {left:,} epochs"
        )


def _seconds(folder: pathlib.Path) -> float:
    """Returns the wall time of a finished run over all starts; 0 if it is unknown."""
    try:
        return float(user_paths.read_json(folder / "results.json")[-1]["seconds"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return 0.0


def print_results(plan: Plan) -> int:
    """Prints a table for each grid and the errors of failed runs; returns the failure count."""
    record = records.read(plan.folder)
    for grid in record.grids:
        console.say(f"\n{grid.question}")
        console.print_table(*_table(grid))
        rows = [run.rows[-1] for run in grid.runs if run.finished]
        if rows and all(row.get(grid.metric) is None for row in rows):
            columns = sorted({name for row in rows for name, x in row.items() if x is not None})
            console.warn(
                f"no finished run of grid '{grid.name}' has the metric '{grid.metric}'; known:"
                f" {', '.join(columns)}"
            )
    runs = {run.name: run for grid in record.grids for run in grid.runs}.values()
    failed = [run for run in runs if run.error and run.name in plan.runs]
    # Many runs may share an error.
    labels: dict[str, list[str]] = {}
    for run in failed:
        labels.setdefault(run.error, []).append(run.label)
    for error, names in labels.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        console.warn(f"failed: {', '.join(names[:3])}{more}: {error}")
    states = Counter(run.state for run in runs)
    if missing := states["missing"] + states["started"]:
        console.say(f"\n{missing} runs are not finished; run the same command again to resume")
    return len(failed)


def _table(grid: records.GridRecord) -> tables.Table:
    """Returns header and rows of a grid, with a row for each cell that has a finished run."""
    others = [factor["name"] for factor in grid.factors if factor["name"] != grid.compared]
    header = [*others, *filter(None, [grid.compared]), "n", "last epoch", "at the best epoch"]
    if grid.baseline:
        header += [f"over {grid.baseline}", "95 % interval", "p (Holm)", ""]
    rows = []
    for block, levels in grid.blocks().items():
        last = {level: records.values_by_seed(runs, grid.metric) for level, runs in levels.items()}
        differences = {}
        if grid.baseline and last.get(grid.baseline):
            differences = statistics.differences(last, grid.baseline)
        for level, runs in levels.items():
            if last[level]:
                best = statistics.summarize(records.values_by_seed(runs, grid.best))
                row = [*block, *([level] if grid.compared else []), str(len(last[level]))]
                row += [_mean(statistics.summarize(last[level])), _mean(best)]
                rows.append(row + (_difference(differences.get(level)) if grid.baseline else []))
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
    # An interval without width would suggest certainty.
    interval = "no spread"
    if difference.std:
        interval = f"{difference.low:+.2f} to {difference.high:+.2f}"
    p = f"{difference.p_adjusted:.3f}"
    return [f"{difference.mean:+.2f}", interval, p, difference.verdict]
