"""A comparison of two runs: the config fields that differ, and their curves by epoch."""

import os
from collections.abc import Sequence
from typing import Any

from rrd_jax import errors
from rrd_jax.runs import status, table
from rrd_jax.runs.status import Run
from rrd_jax.terminal import tables

_USUAL = ("test/top1", "test/loss")
_MOST_ROWS = 30


def find(name: str, root: str | None) -> Run:
    """Returns the run of a name.

    Args:
      name: a path, relative to `root` if that is given.
      root: the folder of runs.

    Raises:
      InputError: there is no such run.
    """
    path = os.path.normpath(os.path.join(root or "", name))
    for run in status.read(path, with_size=False)[0] if os.path.isdir(path) else ():
        if run.columns["name"] == ".":
            return run
    known = [run.columns["name"] for run in status.read(root, with_size=False)[0]] if root else []
    raise errors.InputError(
        f"'{path}' is no run; {errors.hint(name, known)}name two runs that python -m rrd_jax.runs"
        f" {root or 'FOLDER'} lists: FOLDER --diff A B, or --diff with two paths"
    )


def fields(a: Run, b: Run) -> dict[str, tuple[Any, Any]]:
    """Returns the values of both runs for each config field that differs; None for no field."""
    names = [name for name in sorted(a.config | b.config) if not name.startswith("starts.")]
    pairs = {name: (a.config.get(name), b.config.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def curves(a: Run, b: Run, metrics: Sequence[str] | None) -> list[dict[str, Any]]:
    """Returns a row for each epoch: `epoch`, and "test/top1 A" and "test/top1 B" for each metric.

    Raises:
      InputError: neither run has a metric of that name.
    """
    by_epoch = {
        letter: {row["epoch"]: row for row in status.read_metrics(run.columns["path"])}
        for letter, run in (("A", a), ("B", b))
    }
    known = dict.fromkeys(key for rows in by_epoch.values() for row in rows.values() for key in row)
    for name in metrics or ():
        if known and name not in known:
            raise errors.InputError(
                f"neither run has the metric '{name}'; {errors.hint(name, known)}known:"
                f" {', '.join(known)}"
            )
    return [
        {"epoch": epoch}
        | {
            f"{name} {letter}": rows.get(epoch, {}).get(name)
            for name in metrics or _USUAL
            for letter, rows in by_epoch.items()
        }
        for epoch in sorted(by_epoch["A"] | by_epoch["B"])
    ]


def as_text(a: Run, b: Run, rows: Sequence[dict[str, Any]], width: int | None) -> str:
    """Returns the comparison as tables of at most `width` columns, None for any width."""

    def fitted(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
        return tables.fitted(header, cells, width) if width else tables.markdown(header, cells)

    names = ("path", "epoch", "epochs", "top1", "best", "state")
    runs = [
        [letter, *(table.format_value(run.columns[name]) for name in names)]
        for letter, run in (("A", a), ("B", b))
    ]
    parts = [fitted(["", *names], runs)]
    differing = [[name, *map(_format_short, pair)] for name, pair in fields(a, b).items()]
    parts.append(fitted(["field", "A", "B"], differing) if differing else "the configs are equal")
    if not rows:
        return "\n\n".join([*parts, "neither run has finished an epoch"])
    step = -(-len(rows) // _MOST_ROWS)
    some = [*rows[step - 1 : -1 : step], rows[-1]]
    parts.append(fitted(list(rows[0]), [[*map(table.format_value, row.values())] for row in some]))
    if step > 1:
        parts.append(f"{len(some)} of {len(rows)} epochs; --format=csv has all")
    return "\n\n".join(parts)


def as_json(a: Run, b: Run, rows: Sequence[dict[str, Any]]) -> str:
    """Returns the comparison as JSON."""
    content = {
        "A": a.columns["path"],
        "B": b.columns["path"],
        "fields": fields(a, b),
        "curves": rows,
    }
    return table.as_json(content)


def _format_short(value: Any) -> str:
    return tables.cut(table.format_value(value), 60) or '""'
