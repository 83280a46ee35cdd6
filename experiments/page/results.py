"""What a grid's runs come to: summaries, differences and ranks."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.study import statistics
from experiments.study.records import Entry, GridRecord, figures

Factor = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """A level within a block.

    Attributes:
      name: of the level.
      values: of the last epoch, by seed, of the runs that finished.
      last: of the last epoch.
      best: of the best epoch, which was chosen by the test images.
      asked: how many seeds were asked for.
      published: a paper's figure, or None.
    """

    name: str
    values: Mapping[int, float]
    last: statistics.Summary
    best: statistics.Summary
    asked: int
    published: float | None


@dataclasses.dataclass(frozen=True)
class Block:
    """The levels that are compared, in one combination of the other factors' levels.

    Attributes:
      levels: of the other factors, by factor.
      rows: by level.
      differences: to the baseline, of the others; empty where there is no baseline.
    """

    levels: Mapping[str, str]
    rows: Mapping[str, Row]
    differences: Mapping[str, statistics.Difference]

    @property
    def name(self) -> str:
        """Of the block, "" for the only one."""
        return ", ".join(
            level if level[:1].isalpha() else f"{factor.replace('_', ' ')} {level}"
            for factor, level in self.levels.items()
        )

    def ordered(self) -> list[Row]:
        """The rows with figures, the best first."""
        rows = [row for row in self.rows.values() if row.last.n]
        return sorted(rows, key=lambda row: row.last.mean, reverse=True)


@dataclasses.dataclass(frozen=True)
class Results:
    """Of a grid.

    Attributes:
      grid: as it was read.
      blocks: in the order of the grid.
      ranking: of the levels over the blocks; None for fewer than two blocks or three levels.
    """

    grid: GridRecord
    blocks: tuple[Block, ...]
    ranking: statistics.Ranking | None

    @property
    def finished(self) -> int:
        """How many runs have made all their epochs."""
        return sum(entry.finished for entry in self.grid.entries)

    @property
    def has_figures(self) -> bool:
        """Whether a run that finished has a figure of the grid's metric."""
        return any(block.ordered() for block in self.blocks)

    @property
    def levels(self) -> list[str]:
        """Of the factor that is compared."""
        return list(dict.fromkeys(name for block in self.blocks for name in block.rows))

    @property
    def missing(self) -> list[Entry]:
        """Runs without a figure."""
        return [entry for entry in self.grid.entries if not entry.finished]


def of(grid: GridRecord) -> Results:
    """The results of a grid, of the runs that have finished."""
    blocks = tuple(_blocks(grid))
    # Shares of the images, say, are no sample of settings that ranks could be tested over.
    return Results(grid, blocks, _ranking(blocks) if grid.shown == "table" else None)


def unit(metric: str) -> str:
    """The unit of a column of metrics.jsonl: per cent of shares, nothing of others."""
    name = metric.rpartition("/")[2]
    shares = ("top1", "top5", "agreement", "balanced", "accuracy", "balanced_top1")
    return "%" if name in shares else ""


def label(metric: str) -> str:
    """A column of metrics.jsonl as an axis names it, with its unit."""
    split, _, name = metric.rpartition("/")
    names = {
        "top1": "top-1",
        "top5": "top-5",
        "agreement": "agreement with the teacher",
        "balanced": "balanced accuracy",
        "balanced_top1": "balanced top-1",
    }
    text = f"{split} {names.get(name, name.replace('_', ' '))}".strip().replace("/", " ")
    return f"{text} (%)" if unit(metric) else text


def far_below(figures: Sequence[float]) -> float:
    """Below which figures are so far from the others that an axis is better without them."""
    if len(figures) < 6:
        return -np.inf
    low, high = np.percentile(figures, (25, 75))
    return low - 5 * max(high - low, 0.5)


def valued(grid: GridRecord) -> list[Factor]:
    """The factors whose levels have a place on an axis."""
    return [f for f in grid.factors if all(x["value"] is not None for x in f["levels"])]


def value(factor: Factor, level: str) -> float:
    """The place of a level on its factor's axis."""
    return next(x["value"] for x in factor["levels"] if x["name"] == level)


def _blocks(grid: GridRecord) -> Iterator[Block]:
    order = {
        factor["name"]: [level["name"] for level in factor["levels"]] for factor in grid.factors
    }
    for cells in grid.blocks().values():
        first = next(iter(cells.values()))[0]
        others = {k: v for k, v in first.levels.items() if k != grid.compared}
        names = [name for name in order.get(grid.compared, [""]) if name in cells]
        rows = {name: _row(grid, name, cells[name]) for name in names}
        values = {name: row.values for name, row in rows.items() if row.values}
        found = {}
        if grid.baseline in values and len(values) > 1:
            found = statistics.differences(values, grid.baseline)
        yield Block(others, rows, found)


def _row(grid: GridRecord, name: str, entries: list[Entry]) -> Row:
    values = figures(entries, grid.metric)
    return Row(
        name=name,
        values=values,
        last=statistics.summarize(values),
        best=statistics.summarize(figures(entries, grid.best)),
        asked=len(entries),
        published=grid.published.get(tuple(entries[0].levels.values())),
    )


def _ranking(blocks: tuple[Block, ...]) -> "statistics.Ranking | None":
    """Of the levels that have a figure in every block."""
    means = {block.name: {row.name: row.last.mean for row in block.ordered()} for block in blocks}
    common = set.intersection(*map(set, means.values())) if means else set()
    if len(means) < 2 or len(common) < 3:
        return None
    order = [name for name in blocks[0].rows if name in common]
    return statistics.ranks(
        {block: {name: found[name] for name in order} for block, found in means.items()}
    )
