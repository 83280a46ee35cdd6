"""Config fields as a page: the table of rrd_jax.config, as --print_config prints it."""

import html
import itertools
from collections.abc import Iterable

from rrd_jax import config
from rrd_jax.config import validation
from rrd_jax.config.describe import Entry, entries
from rrd_jax.settings import kinds

_SECTIONS = {
    "": "The run as a whole",
    "data": "data: images, splits and augmentation",
    "data.views": "data.views: views of an image",
    "student": "student: the network that is trained",
    "teacher": "teacher: the network that it learns from",
    "optimizer": "optimizer: rates, decay and schedule",
    "train": "train: epochs, batches, memory and checkpoints",
    "eval": "eval: what held-out images show",
}


def page() -> str:
    """Returns every field but those of objectives, by section."""
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
        f"Default `{kinds.short_repr(entry.default)}`. {said(entry)}"
    )


def said(entry: Entry) -> str:
    """The values and the meaning of a field, as prose in which Markdown has no say."""
    return " ".join(map(literal, filter(None, (f"{entry.values}.", entry.meaning))))


def literal(text: str) -> str:
    """A sentence for people, in Markdown: what is quoted there as code stays so."""
    parts = text.split("`")
    prose = (part if i % 2 else _escaped(part) for i, part in enumerate(parts))
    return "`".join(prose)


def _escaped(text: str) -> str:
    text = html.escape(text, quote=False)
    text = "".join(f"\\{letter}" if letter in r"\*_{}[]|" else letter for letter in text)
    return text.replace("''", "`''`")  # which looks like one quote in prose


def rows(described: Iterable[Entry]) -> str:
    """Fields as a table: name, default, and what is said of them."""
    lines = ["| field | default | values and meaning |", "|---|---|---|"]
    for entry in described:
        name = entry.path.rpartition(".")[2]
        lines.append(f"| `{name}` | `{kinds.short_repr(entry.default)}` | {said(entry)} |")
    return "\n".join(lines)
