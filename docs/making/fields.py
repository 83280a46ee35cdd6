"""Generates the configuration reference from the field declarations of rrd_jax.config."""

import html
import itertools
from collections.abc import Iterable

from rrd_jax import config
from rrd_jax.config import validation
from rrd_jax.config.describe import Entry, entries
from rrd_jax.settings import kinds

_SECTIONS = {
    "": "General fields",
    "data": "data: images, splits and augmentation",
    "data.views": "data.views: views of an image",
    "student": "student: the trained network",
    "teacher": "teacher: the frozen network",
    "optimizer": "optimizer: learning rate, weight decay and schedule",
    "train": "train: epochs, batches, memory and checkpoints",
    "eval": "eval: metrics on held-out images",
    "report": "report: trackers such as wandb and MLflow",
}


def page() -> str:
    """Returns the sections with all fields except those of objectives."""
    parts = []
    described = entries(validation.read(config.defaults()))
    for section, fields in itertools.groupby(
        described, lambda entry: entry.path.rpartition(".")[0]
    ):
        parts.append(f"## {_SECTIONS[section]}")
        parts += [_field(entry) for entry in fields]
    return "\n\n".join(parts)


def _field(entry: Entry) -> str:
    return (
        f"### `{entry.path}` {{ #{entry.path} }}\n\n"
        f"Default `{kinds.short_repr(entry.default)}`. {description(entry)}"
    )


def description(entry: Entry) -> str:
    """Returns the values and the meaning of a field as escaped Markdown."""
    return " ".join(map(literal, filter(None, (f"{entry.values}.", entry.meaning))))


def literal(text: str) -> str:
    """Escapes text for Markdown, except for code between backticks."""
    parts = text.split("`")
    prose = (part if i % 2 else _escaped(part) for i, part in enumerate(parts))
    return "`".join(prose)


def _escaped(text: str) -> str:
    text = html.escape(text, quote=False)
    text = "".join(f"\\{letter}" if letter in r"\*_{}[]|" else letter for letter in text)
    # Two single quotes look like one double quote in prose.
    return text.replace("''", "`''`")


def rows(described: Iterable[Entry]) -> str:
    """Returns a table of fields: name, default, values and meaning."""
    lines = ["| field | default | values and meaning |", "|---|---|---|"]
    for entry in described:
        name = entry.path.rpartition(".")[2]
        lines.append(f"| `{name}` | `{kinds.short_repr(entry.default)}` | {description(entry)} |")
    return "\n".join(lines)
