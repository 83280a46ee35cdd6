"""Two runs beside one another: the config fields that differ, and their curves by epoch."""

import itertools
import os
from collections.abc import Sequence
from typing import Any

from rrd_jax import errors
from rrd_jax.run_folder import flat
from rrd_jax.runs import columns, forms, reading
from rrd_jax.runs.reading import Run
from rrd_jax.terminal import tables

_USUAL = ("test/top1", "test/loss")
_MOST = 30  # epochs that a table shows


def find(name: str, folder: str | None) -> Run:
    """The run of a name.

    Args:
      name: a path; below `folder` if that is given, as the list of its runs has it.
      folder: whose runs are meant.

    Raises:
      InputError: there is no such run.
    """
    path = os.path.normpath(os.path.join(folder or "", name))
    # What an objective trains before distillation is known as a run by the folder around it.
    for place in (path, os.path.dirname(path) or "."):
        for run in reading.read(place)[0] if os.path.isdir(place) else ():
            if os.path.realpath(run.place.path) == os.path.realpath(path):
                return run
    known = [run.place.name for run in reading.read(folder)[0]] if folder else []
    raise errors.InputError(
        f"'{path}' is no run; {errors.hint(name, known)}name two of those that python -m"
        f" rrd_jax.runs {folder or 'FOLDER'} lists: FOLDER --diff A B, or --diff with two paths"
    )


def fields(a: Run, b: Run) -> dict[str, tuple[Any, Any]]:
    """The config fields that differ, by path; flat.ABSENT where a config has none."""
    of_a, of_b = flat.flatten(a.config), flat.flatten(b.config)
    pairs = {
        name: (of_a.get(name, flat.ABSENT), of_b.get(name, flat.ABSENT))
        for name in sorted(of_a | of_b)
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def curves(a: Run, b: Run, metrics: Sequence[str] | None) -> list[dict[str, Any]]:
    """Rows with `epoch` and, for each metric, its values of both runs: "test/top1 A" and so on.

    Raises:
      InputError: neither has a metric of that name.
    """
    by_epoch = [{row["epoch"]: row for row in reading.rows(run)} for run in (a, b)]
    known = dict.fromkeys(itertools.chain(*(row for rows in by_epoch for row in rows.values())))
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
            for letter, rows in zip("AB", by_epoch, strict=True)
        }
        for epoch in sorted(by_epoch[0] | by_epoch[1])
    ]


def as_text(a: Run, b: Run, rows: Sequence[dict[str, Any]], room: int | None) -> str:
    """What differs, for people; `room` as `forms.table` has it."""

    def fitted(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
        if room is None:
            return tables.markdown(header, cells)
        return tables.fitted(header, cells, room)

    known = [columns.KNOWN[name] for name in ("epoch", "top1", "best", "state")]
    runs = [
        [letter, errors.printable(run.place.path), *(column.shown(run) for column in known)]
        for letter, run in zip("AB", (a, b), strict=True)
    ]
    parts = [fitted(["", "run", *(column.name for column in known)], runs)]
    if differing := fields(a, b):
        cells = [[name, *map(_shown, pair)] for name, pair in differing.items()]
        parts.append(fitted(["field", "A", "B"], cells))
    else:
        parts.append("their configs are the same")
    if not rows:
        return "\n\n".join([*parts, "neither has finished an epoch"])
    step = -(-len(rows) // _MOST)
    some = [*rows[step - 1 : -1 : step], rows[-1]]
    parts.append(fitted(list(rows[0]), [[*map(columns.shown, row.values())] for row in some]))
    if step > 1:
        parts.append(f"{len(some)} of {len(rows)} epochs; --format=csv has all")
    return "\n\n".join(parts)


def as_json(a: Run, b: Run, rows: Sequence[dict[str, Any]]) -> str:
    """The same for programs; a field that a config lacks is null."""
    differing = {
        name: [None if value is flat.ABSENT else value for value in pair]
        for name, pair in fields(a, b).items()
    }
    return forms.as_json(
        {"A": a.place.path, "B": b.place.path, "fields": differing, "curves": rows}
    )


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return "absent" if value is flat.ABSENT else tables.cut(columns.shown(value), 60) or '""'
