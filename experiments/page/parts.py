"""What a page is made of; nothing here knows of HTML."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.page.look import Style


@dataclasses.dataclass(frozen=True)
class Chart:
    """One drawing: a specification of Vega-Lite, whose data has all that is drawn.

    Attributes:
      spec: without a theme; colours are CSS variables of the page.
      title: above it, where a figure has several.
    """

    spec: Mapping[str, Any]
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One or several charts with what they show in words.

    Attributes:
      name: unlike all others on the page; letters, digits and hyphens.
      title: above it.
      charts: side by side where there is room.
      caption: below it, in sentences.
      alt: what a reader who cannot see it is told, with the numbers that matter.
      panel: the least width of a chart that has others beside it, in pixels.
      most: the largest width of a chart, in pixels.
      legend: styles of the levels.
      lines: whether the levels are lines; otherwise points alone.
      images: data URIs that charts' data refer to by their places, in a column `picture`.
    """

    name: str
    title: str
    charts: tuple[Chart, ...]
    caption: str
    alt: str
    panel: int = 300
    most: int = 2000
    legend: Mapping[str, Style] = dataclasses.field(default_factory=dict)
    lines: bool = True
    images: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Cell:
    """Of a table.

    Attributes:
      text: as it is read.
      value: what the column is sorted by; None for the text.
      interval: (low, mean, high) that is drawn behind the text, in the column's scale.
      tone: "good", "bad" or "" of a verdict.
    """

    text: str
    value: float | None = None
    interval: tuple[float, float, float] | None = None
    tone: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells.

    Attributes:
      name: unlike all others on the page.
      title: above it.
      header: of the columns.
      rows: of cells, as many as the header has.
      caption: below it.
      numeric: columns whose cells stand at the right.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    numeric: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True)
class Prose:
    """Paragraphs of text."""

    paragraphs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures, each with a line below it.

    Attributes:
      name: unlike all others on the page.
      title: above them.
      pictures: data URIs, with what is said below and to readers who cannot see it.
      caption: below them all.
    """

    name: str
    title: str
    pictures: tuple[tuple[str, str, str], ...]
    caption: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """Names and values that are folded away until they are asked for."""

    title: str
    entries: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Folded:
    """Tables that are folded away until they are asked for."""

    title: str
    tables: tuple[Table, ...]


Part = Figure | Table | Prose | Gallery | Facts | Folded


@dataclasses.dataclass(frozen=True)
class Section:
    """A grid, or another part with a heading of its own.

    Attributes:
      name: unlike all others on the page.
      title: a question, or what it is.
      answer: what was found, in a sentence or two.
      parts: in their order.
      source: command, versions and dates, below each of its figures.
      listed: whether the page begins with its answer.
    """

    name: str
    title: str
    answer: str
    parts: tuple[Part, ...]
    source: Mapping[str, str] = dataclasses.field(default_factory=dict)
    listed: bool = True


@dataclasses.dataclass(frozen=True)
class Page:
    """All of it.

    Attributes:
      kicker: what it is, in a few words above the title.
      title: of the page.
      about: paragraphs on the setting.
      facts: short, below the title, such as "45 of 46 runs".
      sections: in their order.
      source: of the page itself.
    """

    kicker: str
    title: str
    about: str
    facts: tuple[str, ...]
    sections: tuple[Section, ...]
    source: Mapping[str, str]


class Names:
    """Makes each name unlike those before: levels `a b` and `a/b` would share a file."""

    def __init__(self):
        self._taken: set[str] = set()

    def __call__(self, name: str) -> str:
        """The name, or the first of name-2, name-3, ... that is free."""
        free, number = name, 1
        while free in self._taken:
            number += 1
            free = f"{name}-{number}"
        self._taken.add(free)
        return free


def distinct(sections: Iterable[Section]) -> tuple[Section, ...]:
    """The sections, with names of which each is there once."""
    names = Names()

    def named(part: Any) -> Any:
        if isinstance(part, Folded):
            return dataclasses.replace(part, tables=tuple(map(named, part.tables)))
        if isinstance(part, Section):
            part = dataclasses.replace(part, name=names(part.name))
            return dataclasses.replace(part, parts=tuple(map(named, part.parts)))
        has_name = isinstance(part, Figure | Table | Gallery)
        return dataclasses.replace(part, name=names(part.name)) if has_name else part

    return tuple(map(named, sections))
