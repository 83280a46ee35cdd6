"""The elements of a page, independent of HTML."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.page.styles import Style


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart as a Vega-Lite specification with its data.

    Attributes:
      spec: without a theme; its colours are CSS variables of the page.
      title: above the chart, if a figure has several.
    """

    spec: Mapping[str, Any]
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One or several charts with a caption.

    Attributes:
      name: unique on the page; also the name of files.
      title: above the figure.
      charts: side by side where there is room.
      caption: below the figure, in sentences.
      alt: a description for readers who cannot see the figure, with the important numbers.
      panel: the smallest width of a chart beside others, in pixels.
      most: the largest width of a chart, in pixels.
      legend: the styles of the levels.
      lines: True if levels are drawn as lines; otherwise as points.
      images: data URIs; the column `picture` of the charts' data indexes them.
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
    """A cell of a table.

    Attributes:
      text: the displayed text.
      value: the sort key; None for the text.
      interval: (low, mean, high), drawn beside the text on the column's scale.
      tone: "good" or "bad" for a verdict; otherwise "".
    """

    text: str
    value: float | None = None
    interval: tuple[float, float, float] | None = None
    tone: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of cells.

    Attributes:
      name: unique on the page; also the name of files.
      title: above the table.
      header: one text for each column.
      rows: tuples of cells, as long as the header.
      caption: below the table.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""

    @property
    def numeric(self) -> frozenset[int]:
        """The columns with numbers, which are aligned right."""
        return frozenset(i for row in self.rows for i, c in enumerate(row) if c.value is not None)


@dataclasses.dataclass(frozen=True)
class Folded:
    """Tables in a collapsed block."""

    title: str
    tables: tuple[Table, ...]


Element = Figure | Table | Folded


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of a page, such as that of a grid.

    Attributes:
      name: unique on the page.
      title: a question or a heading.
      answer: the result in a sentence or two.
      elements: the contents, in order.
      source: command, versions and dates, shown below each figure.
      listed: True if the summary at the top of the page contains the answer.
    """

    name: str
    title: str
    answer: str
    elements: tuple[Element, ...]
    source: Mapping[str, str] = dataclasses.field(default_factory=dict)
    listed: bool = True


@dataclasses.dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
      kicker: a few words above the title.
      title: of the page.
      about: the setting.
      facts: short texts below the title, such as "45 of 46 runs".
      sections: the contents, in order.
      source: command, versions and dates.
    """

    kicker: str
    title: str
    about: str
    facts: tuple[str, ...]
    sections: tuple[Section, ...]
    source: Mapping[str, str]
