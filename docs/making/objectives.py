"""Generates the list of objectives with their config fields."""

import inspect
import re
import sys
from types import ModuleType

from docs.making import fields
from rrd_jax import objectives
from rrd_jax.config import methods
from rrd_jax.config.describe import objective_entries
from rrd_jax.objectives import Record
from rrd_jax.objectives.__main__ import table

_LOSS = """::: {module}.{name}
    options:
      heading_level: 4
      show_root_full_path: false
"""


def page() -> str:
    """Returns a table of all objectives, and a section for each of them."""
    header, rows = table()
    facts = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    lines = ["| name | objective | compares | published |", "|---|---|---|---|"]
    for name, record in objectives.RECORDS.items():
        title, compares = _title(record), fields.literal(record.compares)
        lines.append(f"| [`{name}`](#{name}) | {title} | {compares} | {_reference(record)} |")
    sections = [_section(name, facts[name]) for name in objectives.RECORDS]
    return "\n\n".join(["\n".join(lines), *sections])


def _section(name: str, facts: dict[str, str]) -> str:
    record = objectives.RECORDS[name]
    parts = [f"## {name}: {_title(record)} {{ #{name} }}", fields.literal(_summary(record))]
    points = [
        f"Compares {record.compares}.",
        f"Published in {_reference(record)}." if record.reference != "-" else "",
        f"The method `{name}` is {facts['method of that name']}.",
        f"Trains {facts['trained']} parameters." if facts["trained"] != "0" else "",
        f"Keeps {facts['memory']} in memory." if facts["memory"] != "-" else "",
        f"Has a stage before distillation: {facts['stage before']}."
        if facts["stage before"] != "-"
        else "",
        _needs(record),
    ]
    parts.append("\n".join(f"- {point}" for point in filter(None, points)))
    parts.append(f"Config fields, set by `--config.objectives.{name}.weight=...`:")
    described = objective_entries(name, methods.fields(record))
    parts.append(fields.rows(described))
    if hasattr(_module(record), f"{name}_loss"):
        parts.append(_LOSS.format(module=_module(record).__name__, name=f"{name}_loss"))
    return "\n\n".join(parts)


def _needs(record: Record) -> str:
    needs = ["labels"] if record.needs_labels else []
    # Objectives whose options the trainer fills in, those with banks, always need a teacher.
    is_taught = record.filled_in or record.factory().needs_teacher
    if record.needs_classes and is_taught:
        needs.append("a teacher with the student's classes")
    return f"Needs {', and '.join(needs)}." if needs else ""


def _module(record: Record) -> ModuleType:
    return sys.modules[record.factory.__module__]


def _title(record: Record) -> str:
    """Returns the first line of the module's docstring, without the reference."""
    first = inspect.getdoc(_module(record)).partition("\n")[0]
    title = re.sub(r" \([^()]*\)\.?$", "", first).rstrip(".")
    title = re.sub(rf"^{record.name}: ", "", title, flags=re.IGNORECASE)
    return f"{title[:1].upper()}{title[1:]}"


def _summary(record: Record) -> str:
    """Returns the factory's docstring up to the arguments, with one line per paragraph."""
    text = re.split(r"^(?:Args|Raises|References):", inspect.getdoc(record.factory), flags=re.M)[0]
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def _reference(record: Record) -> str:
    site, _, number = record.reference.rpartition(" ")
    at = {"arXiv": "https://arxiv.org/abs/", "openreview": "https://openreview.net/forum?id="}
    return f"[{record.reference}]({at[site]}{number})" if site in at else record.reference
