"""A study on the console: what is to be run, and what came of it."""

from collections import Counter
from collections.abc import Iterator

from experiments.study import progress, records, statistics
from experiments.study.plan import Plan
from rrd_jax.run_folder import metrics_writer
from rrd_jax.terminal import console, tables

_LISTED = 200  # cells that a dry run lists


def say_plan(plan: Plan, jobs: int) -> None:
    """Says what the runs are, what of them exists, and about how long the rest takes.

    Args:
      plan: the runs.
      jobs: made at once.
    """
    there = {}
    for name, run in plan.runs.items():
        folder = plan.folder / "runs" / name
        rows = records.rows(folder)
        epoch = rows[-1]["epoch"] if rows else 0
        failed = records.error_of(folder)
        there[name] = "failed" if failed and epoch < run.epochs else f"{epoch} of {run.epochs}"
    cells = [cell for cell in plan.cells if cell.run in plan.runs]
    rows = [(cell.label, there[cell.run], cell.run) for cell in cells[:_LISTED]]
    console.print_table(("cell", "epochs", "run"), rows)
    if len(cells) > _LISTED:
        console.say(f"... and {len(cells) - _LISTED} more")
    count = progress.count(plan)
    shared = len(cells) - len(plan.runs)
    console.say(
        f"\n{len(plan.runs)} runs in {plan.folder / 'runs'}: {count.finished} finished,"
        f" {count.begun} begun, {count.failed} failed,"
        f" {count.runs - count.finished - count.begun - count.failed} to begin"
        + (f"; {shared} cells share a run with another" if shared else "")
    )
    teachers = plan.teachers()
    if teachers:
        console.say(f"teachers, each trained once for all that need it: {', '.join(teachers)}")
    for function in plan.study.calculations:
        console.say(f"curves are computed: {function.__name__}")
    left = count.left(jobs)
    if not count.runs or not count.epochs_left:
        return
    if left is None:
        console.say("how long they take is known once one of them has ended: try --max_runs=1")
    else:
        console.say(
            f"about {metrics_writer.duration(left)} left, {jobs} at a time:"
            f" {count.seconds:.2g} s an epoch"
            f" in those that have ended, {count.epochs_left:,} epochs to go"
        )


def say_results(plan: Plan) -> int:
    """Prints a table for each grid, and what has failed; returns how many runs have."""
    record = records.read(plan.folder)
    for grid in record.grids:
        console.say(f"\n{grid.question}")
        console.print_table(*table(grid))
        if reason := _without_figures(grid):
            console.warn(reason)
    failed = {
        entry.name: entry
        for grid in record.grids
        for entry in grid.entries
        if entry.error and entry.name in plan.runs
    }
    labels: dict[str, list[str]] = {}  # by what went wrong, which many may share
    for entry in failed.values():
        labels.setdefault(entry.error, []).append(entry.label)
    for error, names in labels.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        console.warn(f"failed: {', '.join(names[:3])}{more}: {error}")
    states = Counter(entry.state for grid in record.grids for entry in grid.entries)
    missing = states["missing"] + states["begun"]
    if missing:
        console.say(f"\n{missing} cells are not finished yet; the same command goes on with them")
    return len(failed)


def _without_figures(grid: records.GridRecord) -> str:
    """Why no finished run of a grid has its figure, such as a column that is spelt wrong; or ""."""
    rows = [entry.rows[-1] for entry in grid.entries if entry.finished]
    if not rows or any(row.get(grid.metric) is not None for row in rows):
        return ""
    known = sorted({name for row in rows for name, value in row.items() if value is not None})
    return (
        f"no finished run of grid '{grid.name}' has its metric '{grid.metric}'; they have"
        f" {', '.join(known)}"
    )


def table(grid: records.GridRecord) -> tables.Table:
    """Header and rows of a grid: a row for each of its cells that has a finished run.

    Args:
      grid: with its runs.
    """
    others = [factor["name"] for factor in grid.factors if factor["name"] != grid.compared]
    header = [*others, *([grid.compared] if grid.compared else []), "n", "last epoch", "best epoch"]
    if grid.baseline:
        header += [f"over {grid.baseline}", "95 % interval", "p (Holm)", ""]
    return header, list(_rows(grid))


def _rows(grid: records.GridRecord) -> Iterator[list[str]]:
    for block, levels in grid.blocks().items():
        last = {level: records.figures(entries, grid.metric) for level, entries in levels.items()}
        compares = bool(grid.baseline and last.get(grid.baseline))
        found = statistics.differences(last, grid.baseline) if compares else {}
        for level, entries in levels.items():
            if not last[level]:
                continue
            best = statistics.summarize(records.figures(entries, grid.best))
            row = [*block, *([level] if grid.compared else []), str(len(last[level]))]
            row += [_mean_std(statistics.summarize(last[level])), _mean_std(best)]
            if grid.baseline:
                row += _difference(found.get(level))
            yield row


def _mean_std(summary: statistics.Summary) -> str:
    if summary.mean is None:
        return "-"
    return f"{summary.mean:.2f}" + ("" if summary.std is None else f" +- {summary.std:.2f}")


def _difference(found: statistics.Difference | None) -> list[str]:
    if found is None or found.mean is None:
        return ["-"] * 4
    if found.low is None:
        return [f"{found.mean:+.2f}", "-", "-", found.verdict]
    # An interval without width would look like certainty.
    interval = f"{found.low:+.2f} to {found.high:+.2f}" if found.std else "no spread"
    return [f"{found.mean:+.2f}", interval, f"{found.p_adjusted:.3f}", found.verdict]
