"""Results of a grid: summaries and differences."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.study import statistics
from experiments.study.records import GridRecord, RunRecord, values_by_seed

Factor = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """The results of a level within a block.

    Attributes:
      name: the name of the level.
      runs: the runs of the level, finished or not.
      values: the values of the last epoch of each finished run, by seed.
      last: a summary of the values.
      best: a summary of the best epochs, which were selected on the test images.
      published: a published value, or None.
    """

    name: str
    runs: tuple[RunRecord, ...]
    values: Mapping[int, float]
    last: statistics.Summary
    best: statistics.Summary
    published: float | None


@dataclasses.dataclass(frozen=True)
class Block:
    """The compared levels, for one combination of the other factors' levels.

    Attributes:
      levels: the levels of the other factors, by factor.
      rows: the results by level.
      differences: differences from the baseline, by level; empty without a baseline.
    """

    levels: Mapping[str, str]
    rows: Mapping[str, Row]
    differences: Mapping[str, statistics.Difference]

    @property
    def name(self) -> str:
        """The levels as text; "" for a single block."""
        return ", ".join(
            level if level[:1].isalpha() else f"{factor.replace('_', ' ')} {level}"
            for factor, level in self.levels.items()
        )

    def ordered(self) -> list[Row]:
        """Returns the rows with values, with the highest mean first."""
        rows = [row for row in self.rows.values() if row.last.n]
        return sorted(rows, key=lambda row: row.last.mean, reverse=True)


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of a grid.

    Attributes:
      grid: the record of the grid.
      blocks: the blocks, in the order of the grid.
    """

    grid: GridRecord
    blocks: tuple[Block, ...]

    @property
    def measured(self) -> tuple[Block, ...]:
        """The blocks with values."""
        return tuple(block for block in self.blocks if block.ordered())

    @property
    def levels(self) -> list[str]:
        """The levels of the compared factor."""
        return list(dict.fromkeys(name for block in self.blocks for name in block.rows))

    @property
    def valued(self) -> list[Factor]:
        """The factors whose levels are numbers."""
        factors = self.grid.factors
        return [f for f in factors if all(level["value"] is not None for level in f["levels"])]

    @property
    def display(self) -> str:
        """The kind of the main figure: "table", "map" or "curve"."""
        needed = {"map": 2, "curve": 1}.get(self.grid.display, 0)
        return self.grid.display if len(self.valued) >= needed else "table"

    def cells(self) -> Iterator[tuple[dict[str, str], Row]]:
        """Yields each cell: levels by factor, and results."""
        for block in self.blocks:
            for row in block.rows.values():
                yield dict(block.levels) | ({self.grid.compared: row.name} if row.name else {}), row


def compute(grid: GridRecord) -> Results:
    """Computes the results of a grid from its finished runs."""
    return Results(grid, tuple(_blocks(grid)))


def label(metric: str) -> str:
    """Returns the axis label of a metrics column, with the unit."""
    split, _, name = metric.rpartition("/")
    names = {
        "top1": "top-1 (%)",
        "top5": "top-5 (%)",
        "agreement": "agreement with the teacher (%)",
        "balanced_top1": "balanced top-1 (%)",
    }
    return f"{split} {names.get(name, name.replace('_', ' '))}".strip().replace("/", " ")


def _blocks(grid: GridRecord) -> Iterator[Block]:
    for levels in grid.blocks().values():
        rows = {name: _row(grid, name, runs) for name, runs in levels.items()}
        values = {name: row.values for name, row in rows.items() if row.values}
        differences = {}
        if grid.baseline in values and len(values) > 1:
            differences = statistics.differences(values, grid.baseline)
        first = next(iter(rows.values())).runs[0]
        others = {k: v for k, v in first.levels.items() if k != grid.compared}
        yield Block(others, rows, differences)


def _row(grid: GridRecord, name: str, runs: list[RunRecord]) -> Row:
    values = values_by_seed(runs, grid.metric)
    return Row(
        name=name,
        runs=tuple(runs),
        values=values,
        last=statistics.summarize(values),
        best=statistics.summarize(values_by_seed(runs, grid.best)),
        published=grid.published.get(tuple(runs[0].levels.values())),
    )
