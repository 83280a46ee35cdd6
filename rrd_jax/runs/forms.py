"""Runs as a table, CSV or JSON."""

import csv
import dataclasses
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rrd_jax import errors
from rrd_jax.runs import reading
from rrd_jax.runs.columns import Column
from rrd_jax.runs.reading import Run
from rrd_jax.terminal import tables

# What a narrow screen does without: first what is the same for all runs, then these in this order.
_CONSTANTS = ("pair", "method", "data", "seed")
_LEAST = ("size", "data", "age", "pair", "best", "seed", "method")
_STATE = 16  # columns of a state, whose reasons may take several lines
_SIZE = 9  # columns of a size, which takes a while to be known: it may not be needed


def table(
    runs: Sequence[Run], columns: Sequence[Column], room: int | None = None, *, drops: bool = False
) -> tuple[str, list[str]]:
    """A table with a row for each run, and what there is to say below it.

    Args:
      runs: in their order.
      columns: of the table.
      room: columns of a screen; None for a file, which takes any width.
      drops: whether columns may be left out where there is too little room.
    """
    notes = []
    if room is not None and drops:
        columns, notes = _fitting(runs, _with_short_names(columns, room // 2), room)
    header = [column.name for column in columns]
    rows = [[column.shown(run) for column in columns] for run in runs]
    if room is None:
        return tables.markdown(header, rows), notes
    return tables.fitted(header, rows, room), notes


def _with_short_names(columns: Sequence[Column], most: int) -> list[Column]:
    """The columns, with the middle of long names left out, so that there is room for figures."""

    def text(run: Run) -> str:
        name = errors.printable(run.place.name)
        if tables.cells(name) <= most:
            return name
        head = tables.cut(name, most // 3)
        return f"{head}...{tables.cut(name[::-1], most - tables.cells(head) - 3)[::-1]}"

    return [dataclasses.replace(c, text=text) if c.name == "name" else c for c in columns]


def _fitting(
    runs: Sequence[Run], columns: Sequence[Column], room: int
) -> tuple[list[Column], list[str]]:
    """The columns that there is room for, and lines on the others."""
    cells = {c.name: {c.shown(run) for run in runs} for c in columns if c.name != "size"}
    widths = {name: max(map(tables.cells, [name, *texts])) for name, texts in cells.items()}
    widths["size"] = _SIZE
    widths["state"] = min(widths.get("state", 0), _STATE)
    same = [name for name in _CONSTANTS if len(runs) > 1 and len(cells.get(name, ())) == 1]
    names, left_out = [column.name for column in columns], []

    def fits(*without: str) -> bool:
        return sum(widths[name] + 3 for name in names if name not in without) + 1 <= room

    for name in dict.fromkeys((*same, *_LEAST)):
        if not fits(*left_out):
            left_out.append(name)
    for name in reversed(left_out):  # a wide one may have made room for others before it
        if fits(*(other for other in left_out if other != name)):
            left_out.remove(name)
    constants = [f"{name} {next(iter(cells[name]))}" for name in left_out if name in same]
    missing = [name for name in left_out if name not in same]
    notes = [f"the same for all: {', '.join(constants)}"] if constants else []
    notes += [f"no room for {', '.join(missing)}; --columns has them"] if missing else []
    return [column for column in columns if column.name not in left_out], notes


def summary(runs: Sequence[Run], total: int) -> str:
    """How many runs are in which state."""
    counts = Counter(run.state for run in runs)
    states = ", ".join(f"{counts[state]:,} {state}" for state in reading.STATES if counts[state])
    number = f"{len(runs):,}" + (f" of {total:,}" if len(runs) != total else "")
    runs_ = "run" if total == 1 else "runs"
    return f"{number} {runs_}: {states}" if states else f"{number} {runs_}"


def records(runs: Sequence[Run], columns: Sequence[Column]) -> list[dict[str, Any]]:
    """The values of each run, by column, as JSON has them."""
    return [{column.name: _value(column.value(run)) for column in columns} for run in runs]


def _value(value: Any) -> Any:
    """JSON has no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json(content: Any) -> str:
    """JSON, in lines."""
    return json.dumps(content, indent=2) + "\n"


def as_csv(header: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV of rows by column; what is missing is empty, lists are JSON."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        values = [row.get(name) for name in header]
        writer.writerow([json.dumps(v) if isinstance(v, list | dict | bool) else v for v in values])
    return out.getvalue()
