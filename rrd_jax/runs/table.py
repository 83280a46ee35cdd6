"""The list of runs as a table, CSV or JSON: columns, order and formats."""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rrd_jax import errors
from rrd_jax.runs import status
from rrd_jax.runs.status import Run
from rrd_jax.terminal import tables

DEFAULT_COLUMNS = (
    "name",
    "pair",
    "method",
    "data",
    "seed",
    "epoch",
    "top1",
    "best",
    "state",
    "age",
    "size",
)
# Columns that are omitted on a narrow screen, in this order.
_OPTIONAL = ("size", "data", "age", "pair", "best", "seed", "method")
# A state with its reason wraps to several lines of this width.
_STATE_WIDTH = 16
_UNITS = {"w": 604800, "d": 86400, "h": 3600, "min": 60}


def columns(names: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Returns the columns of --columns; a + before the first name adds to the default columns.

    Raises:
      InputError: no run has a column, config field or metric of this name.
    """
    names = [name.strip() for name in names]
    if names[0].startswith("+"):
        names = [*DEFAULT_COLUMNS, names[0][1:], *names[1:]]
    available = dict.fromkeys(
        name for run in runs for name in (*run.columns, *run.row, *run.config)
    )
    for name in names:
        if name.removeprefix("config.") not in available:
            raise errors.InputError(
                f"no run has '{name}'; {errors.hint(name, available)}known:"
                f" {', '.join(runs[0].columns)}, and config fields and metrics, such as"
                " optimizer.learning_rate and test/loss"
            )
    return list(dict.fromkeys(names))


def ordered(runs: Iterable[Run], names: Sequence[str]) -> list[Run]:
    """Returns the runs sorted by columns.

    Args:
      runs: the runs to sort.
      names: names of columns in order of priority; -NAME sorts from large to small. Runs without a
        value are last.
    """
    runs = list(runs)
    for name in reversed(names):
        column = name.removeprefix("-")
        present = [run for run in runs if run.value(column) is not None]
        missing = [run for run in runs if run.value(column) is None]
        present.sort(
            key=lambda run, column=column: _rank(run.value(column)), reverse=column != name
        )
        runs = present + missing
    return runs


def _rank(value: Any) -> tuple:
    """Returns a sort key: states as in STATES, seed2 before seed10, a folder before its runs."""
    if value in status.STATES:
        return (0, status.STATES.index(value), ())
    if isinstance(value, int | float):
        return (0, value, ())
    parts = re.split(r"(\d+)", str(value).replace("/", "\0"))
    return (1, 0, tuple((int(p), "") if p.isdecimal() else (-1, p) for p in parts))


def as_table(
    runs: Sequence[Run], names: Sequence[str], width: int | None, *, may_drop: bool
) -> str:
    """Returns a table of the runs, followed by a summary.

    Args:
      runs: the sorted runs.
      names: names of columns.
      width: width of the screen; None for any width.
      may_drop: whether columns may be omitted on a narrow screen.
    """
    cells = {name: [_cell(run, name) for run in runs] for name in names}
    widths = {name: max(map(tables.cells, [name, *cells[name]])) + 3 for name in names}
    widths["state"] = min(widths.get("state", 0), _STATE_WIDTH)
    if width and may_drop:
        for name in _OPTIONAL:
            if name in cells and sum(widths[name] for name in cells) >= width:
                del cells[name]
    header, rows = list(cells), list(zip(*cells.values(), strict=True))
    text = tables.fitted(header, rows, width) if width else tables.markdown(header, rows)
    dropped = [name for name in names if name not in cells]
    note = f"omitted columns: {', '.join(dropped)}; select with --columns\n" if dropped else ""
    counts = Counter(run.columns["state"] for run in runs)
    states = ", ".join(f"{counts[state]:,} {state}" for state in status.STATES if counts[state])
    return f"{text}\n\n{note}{len(runs):,} {'run' if len(runs) == 1 else 'runs'}: {states}"


def _cell(run: Run, name: str) -> str:
    value = run.value(name)
    if name == "epoch":
        return f"{value}/{run.columns['epochs'] or '?'}"
    if value is None or name not in run.columns:
        return format_value(value)
    if name == "top1":
        return f"{value:.2f}"
    if name == "best":
        by = ", val" if (run.columns["best_by"] or "").startswith("val/") else ""
        return f"{value:.2f} ({format_value(run.columns['best_epoch'])}{by})"
    if name in ("age", "left"):
        unit = next((unit for unit, length in _UNITS.items() if value >= 2 * length), "s")
        return f"{value / _UNITS.get(unit, 1):.0f} {unit}"
    if name == "size":
        return tables.format_bytes(value)
    if name == "state":
        host, rate = run.columns["host"], run.columns["rate"]
        parts = [f"{value} on {host}" if host else value, f"{rate:,.0f} images/s" if rate else ""]
        return errors.printable(", ".join(filter(None, (*parts, run.columns["why"]))))
    return format_value(value)


def format_value(value: Any) -> str:
    """Formats a value for a table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return ", ".join(map(format_value, value))
    return errors.printable(str(value).lower() if isinstance(value, bool) else str(value))


def records(runs: Sequence[Run], names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the columns of each run as a dict, with None for numbers that are not finite."""

    def finite(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return [{name: finite(run.value(name)) for name in names} for run in runs]


def as_json(content: Any) -> str:
    """Returns indented JSON."""
    return json.dumps(content, indent=2) + "\n"


def as_csv(header: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns CSV. Missing values are empty; lists, dicts and bools are JSON."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        values = [row.get(name) for name in header]
        writer.writerow([json.dumps(v) if isinstance(v, list | dict | bool) else v for v in values])
    return out.getvalue()
