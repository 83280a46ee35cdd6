"""The selection of levels by the results of an earlier grid; see `design.Selection`."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.study import records
from experiments.study.cells import Cell
from experiments.study.design import Grid, Study

if TYPE_CHECKING:
    from experiments.study.plan import Run


def select(
    grid: Grid,
    study: Study,
    cells: Sequence[Cell],
    runs: Mapping[str, "Run"],
    folder: pathlib.Path,
) -> dict[str, list[str]]:
    """Returns the best levels, best first, by level of the compared factor.

    Args:
      grid: a grid with a selection.
      study: the study.
      cells: the cells of the previous grids.
      runs: their runs, by name.
      folder: the folder of the study.

    Returns:
      The selected levels; without a compared level whose runs have neither finished nor failed.
    """
    selection = grid.selection
    previous = next(other for other in study.grids if other.name == selection.grid)
    # By compared level, then by level of the factor.
    values: dict[str, dict[str, list[float | None]]] = {}
    for cell in cells:
        if cell.grid == previous.name:
            levels = values.setdefault(cell.levels[grid.compared], {})
            value = _value(folder / "runs" / cell.run, runs[cell.run].epochs, previous.metric)
            levels.setdefault(cell.levels[selection.factor], []).append(value)
    return {
        compared: sorted(levels, key=lambda level: -np.mean(levels[level]))[: selection.count]
        for compared, levels in values.items()
        if None not in (value for column in levels.values() for value in column)
    }


def _value(folder: pathlib.Path, epochs: int, metric: str) -> float | None:
    """Returns the last value of a run; -inf for a failed run, and None for an unfinished one."""
    rows = records.read_rows(folder)
    if rows and rows[-1]["epoch"] >= epochs:
        value = rows[-1].get(metric)
        return float(value) if records.is_number(value) else -math.inf
    return -math.inf if records.read_error(folder) else None
