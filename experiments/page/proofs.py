"""What held-out images show of a run's embeddings, by epoch and at the end."""

from collections.abc import Mapping
from typing import Any

from experiments.page import courses
from experiments.page.marks import Values
from experiments.page.parts import Cell, Table
from experiments.study.records import Entry
from rrd_jax.evaluation import alignment

# By the title of its axis: a figure of evaluation; votes of fewer images where there are few.
_BY_EPOCH = {
    "10 nearest images in common (%)": ("neighbours_10",),
    "CKA": ("cka",),
    "nearest images' class, top-1 (%)": ("knn_20", "knn_10"),
    "linear probe, top-1 (%)": ("probe",),
}
_FLOOR = "random weights"
_WHOSE = {"": "student", "random_": _FLOOR, "teacher_": "teacher"}


def panels(entry: Entry) -> dict[str, Values]:
    """The figures of a run by epoch, with floor and ceiling where these have them; {} for none."""
    found = {}
    for title, names in _BY_EPOCH.items():
        name = next((n for n in names if any(f"proof/{n}" in row for row in entry.rows)), None)
        if name is None:
            continue
        found[title] = [
            values
            for prefix, level in _WHOSE.items()
            for values in courses.run_values([(level, entry)], f"proof/{prefix}{name}")
        ]
    return found


def of(entry: Entry) -> dict[str, float]:
    """The figures of the last epoch that was looked at; {} for none."""
    looked = [row for row in entry.rows if any(name.startswith("proof/") for name in row)]
    last: Mapping[str, Any] = looked[-1] if looked else {}
    return {
        name.removeprefix("proof/"): value
        for name, value in last.items()
        if name.startswith("proof/") and courses.is_number(value)
    }


def table(entry: Entry) -> Table | None:
    """A row each for random weights, student and teacher; None for a run without such figures."""
    figures = of(entry)
    if not figures:
        return None
    header, rows = alignment.table({"student": figures})
    return Table(
        "run-proof",
        "Embeddings of held-out images",
        tuple(header),
        tuple(tuple(map(Cell, row)) for row in rows),
        "Nearest images that are so for the teacher too, in per cent; how alike relations are; how"
        " far embeddings are spread; of labelled images, what nearest ones and a linear probe get"
        " right. A random student is the floor, the teacher the ceiling.",
        frozenset(range(1, len(header))),
    )
