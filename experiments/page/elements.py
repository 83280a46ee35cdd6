"""Elements of a page, independent of HTML."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.page.styles import Style
from rrd_jax.terminal.tables import filled_columns


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart as a Vega-Lite specification with its data.

    Attributes:
      spec: the specification without a theme; colors are CSS variables of the page.
      title: the title above the chart, if a figure has several charts.
    """

    spec: Mapping[str, Any]
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure: charts with a caption.

    Attributes:
      name: unique on the page; also the name of files.
      title: the title above the figure.
      charts: the charts, side by side if the page is wide enough.
      caption: sentences below the figure.
      alt: a text alternative with the important numbers.
      panel: minimum width of a chart next to other charts, in pixels.
      max_width: maximum width of a chart, in pixels.
      legend: the styles of the levels.
      lines: True if levels are drawn as lines; False for points.
      images: data URIs; the column `picture` of the charts' data indexes them.
    """

    name: str
    title: str
    charts: tuple[Chart, ...]
    caption: str
    alt: str
    panel: int = 300
    max_width: int = 2000
    legend: Mapping[str, Style] = dataclasses.field(default_factory=dict)
    lines: bool = True
    images: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
      text: the displayed text.
      value: the sort key; None for the text.
      interval: (low, mean, high), drawn next to the text on the column's scale.
      tone: "good" or "bad" for a verdict; otherwise "".
    """

    text: str
    value: float | None = None
    interval: tuple[float, float, float] | None = None
    tone: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of cells; columns without values are omitted, except the first.

    Attributes:
      name: unique on the page; also the name of files.
      title: the title above the table.
      header: the column titles.
      rows: tuples of cells with the length of the header.
      caption: the text below the table.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""

    def __post_init__(self):
        texts = [[cell.text for cell in row] for row in self.rows]
        columns = filled_columns(len(self.header), texts)
        object.__setattr__(self, "header", tuple(self.header[i] for i in columns))
        rows = tuple(tuple(row[i] for i in columns) for row in self.rows)
        object.__setattr__(self, "rows", rows)

    @property
    def numeric(self) -> frozenset[int]:
        """Indices of columns with numbers, which are right-aligned."""
        return frozenset(i for row in self.rows for i, c in enumerate(row) if c.value is not None)


@dataclasses.dataclass(frozen=True)
class Folded:
    """A collapsed block of tables."""

    title: str
    tables: tuple[Table, ...]


@dataclasses.dataclass(frozen=True)
class Picture:
    """Images with a caption.

    Attributes:
      name: unique on the page.
      title: the title above the images.
      images: (label, data URI) of each image.
      caption: sentences below the images.
      alt: a text alternative.
    """

    name: str
    title: str
    images: tuple[tuple[str, str], ...]
    caption: str
    alt: str


Element = Figure | Table | Folded | Picture


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of a page, for example of a grid.

    Attributes:
      name: unique on the page.
      title: a question or a heading.
      answer: the result in one or two sentences.
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
    """A page.

    Attributes:
      kicker: a few words above the title.
      title: the title of the page.
      about: a description of the setting.
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
