"""Comparison of two runs: config fields that differ, and curves by epoch."""

import os
from collections.abc import Sequence
from typing import Any

from rrd_jax import errors, user_paths
from rrd_jax.runs import status, table
from rrd_jax.runs.status import Run
from rrd_jax.terminal import tables

_DEFAULT_METRICS = ("test/top1", "test/loss")
_MAX_ROWS = 30


def find(name: str, root: str | None) -> Run:
    """Returns the run in a folder.

    Args:
      name: path of the folder, relative to `root` if `root` is not None.
      root: the folder of runs.

    Raises:
      InputError: the folder does not contain a run.
    """
    path = os.path.join(root or "", name)
    is_bucket = user_paths.bucket_url(path) is not None
    path = str(user_paths.path_of(path)) if is_bucket else os.path.normpath(path)
    exists = is_bucket or os.path.isdir(path)
    for run in status.read(path, with_size=False)[0] if exists else ():
        if run.columns["name"] == ".":
            return run
    names = [run.columns["name"] for run in status.read(root, with_size=False)[0]] if root else []
    raise errors.InputError(
        f"'{path}' is not a run; {errors.hint(name, names)}use FOLDER --diff A B with names from"
        f" python -m rrd_jax.runs {root or 'FOLDER'}, or --diff with two paths"
    )


def fields(a: Run, b: Run) -> dict[str, tuple[Any, Any]]:
    """Returns both values of each config field that differs; None for a missing field."""
    names = [name for name in sorted(a.config | b.config) if not name.startswith("starts.")]
    pairs = {name: (a.config.get(name), b.config.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def curves(a: Run, b: Run, metrics: Sequence[str] | None) -> list[dict[str, Any]]:
    """Returns a row per epoch: `epoch`, and values such as "test/top1 A" and "test/top1 B".

    Args:
      a: the first run.
      b: the second run.
      metrics: names of metrics; None for test/top1 and test/loss.

    Raises:
      InputError: neither run has a metric of this name.
    """
    by_epoch = {
        letter: {row["epoch"]: row for row in status.read_metrics(run.columns["path"])}
        for letter, run in (("A", a), ("B", b))
    }
    names = dict.fromkeys(key for rows in by_epoch.values() for row in rows.values() for key in row)
    for name in metrics or ():
        if names and name not in names:
            raise errors.InputError(
                f"neither run has the metric '{name}'; {errors.hint(name, names)}known:"
                f" {', '.join(names)}"
            )
    return [
        {"epoch": epoch}
        | {
            f"{name} {letter}": rows.get(epoch, {}).get(name)
            for name in metrics or _DEFAULT_METRICS
            for letter, rows in by_epoch.items()
        }
        for epoch in sorted(by_epoch["A"] | by_epoch["B"])
    ]


def as_text(a: Run, b: Run, rows: Sequence[dict[str, Any]], width: int | None) -> str:
    """Returns the comparison as tables of at most `width` columns; None for any width."""

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
    step = -(-len(rows) // _MAX_ROWS)
    subset = [*rows[step - 1 : -1 : step], rows[-1]]
    parts.append(
        fitted(list(rows[0]), [[*map(table.format_value, row.values())] for row in subset])
    )
    if step > 1:
        parts.append(f"{len(subset)} of {len(rows)} epochs; use --format=csv for all epochs")
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
