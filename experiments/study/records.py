"""Reads a study's folder: the plan in study.json, and the results of its runs.

Reading needs neither JAX nor the study's Python file, so that pages can be made on any machine.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rrd_jax import errors

PLAN = "study.json"
FAILED = "failed.json"  # In a run's folder: why the run failed.


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run in its place in a grid.

    Attributes:
      levels: the names of its levels, by factor.
      seed: the run's seed.
      name: the run's folder below runs/; a run can have places in several grids.
      folder: the run's workdir.
      label: such as "methods/rrd+kd/seed0".
      epochs: the number of epochs that the run trains for.
      rows: of metrics.jsonl, one for each epoch.
      error: why the run failed, or "".
    """

    levels: Mapping[str, str]
    seed: int
    name: str
    folder: pathlib.Path
    label: str
    epochs: int
    rows: tuple[Mapping[str, Any], ...]
    error: str

    @property
    def epoch(self) -> int:
        """The last finished epoch; 0 for none."""
        return self.rows[-1]["epoch"] if self.rows else 0

    @property
    def finished(self) -> bool:
        """True if the run has finished all epochs."""
        return bool(self.rows) and self.epoch >= self.epochs

    @property
    def state(self) -> str:
        """The state of the run: "finished", "failed", "begun" or "missing"."""
        if self.finished:
            return "finished"
        return "failed" if self.error else "begun" if self.rows else "missing"


@dataclasses.dataclass(frozen=True)
class GridRecord:
    """A grid of a study with its runs; see `design.Grid` for the fields that are not listed.

    Attributes:
      factors: {"name", "label", "log", "levels": [{"name", "value"}, ...]} of each factor, those of
        a grid that it follows first.
      compared: the factor whose levels are compared; "" for none.
      published: published values by the names of a cell's levels.
      config: the launch file, with the options of all runs behind its colon.
      runs: of all cells.
    """

    name: str
    question: str
    factors: tuple[Mapping[str, Any], ...]
    seeds: tuple[int, ...]
    compared: str
    baseline: str
    metric: str
    best: str
    shown: str
    measures: tuple[str, ...]
    published: Mapping[tuple[str, ...], float]
    config: str
    fields: Mapping[str, Any]
    runs: tuple[RunRecord, ...]

    def blocks(self) -> dict[tuple[str, ...], dict[str, list[RunRecord]]]:
        """Returns the runs by the levels of all other factors, then by the compared level."""
        order = {
            level["name"]: i
            for factor in self.factors
            if factor["name"] == self.compared
            for i, level in enumerate(factor["levels"])
        }
        blocks: dict[tuple[str, ...], dict[str, list[RunRecord]]] = {}
        for run in self.runs:
            others = tuple(v for k, v in run.levels.items() if k != self.compared)
            level = run.levels.get(self.compared, "")
            blocks.setdefault(others, {}).setdefault(level, []).append(run)
        return {
            others: dict(sorted(levels.items(), key=lambda pair: order.get(pair[0], 0)))
            for others, levels in blocks.items()
        }


@dataclasses.dataclass(frozen=True)
class StudyRecord:
    """A study's folder; see `design.Study` for the fields that are not listed.

    Attributes:
      folder: of the study.
      provenance: command, versions, host, devices, date and commit of the last start.
    """

    folder: pathlib.Path
    name: str
    title: str
    about: str
    provenance: Mapping[str, Any]
    grids: tuple[GridRecord, ...]


def values_by_seed(runs: Sequence[RunRecord], column: str) -> dict[int, float]:
    """Returns a metrics column's value of the last epoch by seed, of the runs that finished."""
    return {
        run.seed: float(value)
        for run in runs
        if run.finished and is_number(value := run.rows[-1].get(column))
    }


def is_number(value: Any) -> bool:
    """Returns True for a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def read(folder: pathlib.Path) -> StudyRecord:
    """Reads a study's folder.

    Raises:
      InputError: the folder is not that of a study, or damaged.
    """
    path = folder / PLAN
    try:
        plan = errors.read_json(path)
        grids = tuple(_grid(folder, grid) for grid in plan["grids"])
        texts = {name: plan[name] for name in ("name", "title", "about")}
        return StudyRecord(folder=folder, provenance=plan["provenance"], grids=grids, **texts)
    except FileNotFoundError as error:
        raise errors.InputError(
            f"{folder} is not the folder of a study: it has no {PLAN}; name the --workdir of"
            " experiments.study"
        ) from error
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise errors.InputError(
            f"{path} is damaged ({type(error).__name__}: {error}); start the same study again,"
            " which rewrites it and keeps the runs"
        ) from error


def rows(folder: pathlib.Path) -> tuple[Mapping[str, Any], ...]:
    """Reads the epochs of a run's metrics.jsonl, without lines that a kill left half-written."""
    try:
        text = (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    found = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("epoch"), int):
            found.append(row)
    return tuple(found)


def error_of(folder: pathlib.Path) -> str:
    """Returns why a run failed; "" for a run that did not."""
    try:
        return str(errors.read_json(folder / FAILED)["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _grid(folder: pathlib.Path, grid: Mapping[str, Any]) -> GridRecord:
    names = {field.name for field in dataclasses.fields(GridRecord)} - {"runs", "published"}
    fields = {name: grid[name] for name in names}
    fields |= {name: tuple(grid[name]) for name in ("factors", "seeds", "measures")}
    published = {tuple(levels): value for levels, value in grid["published"]}
    order = [factor["name"] for factor in grid["factors"]]
    runs = tuple(_run(folder, cell, order) for cell in grid["cells"])
    return GridRecord(**fields, published=published, runs=runs)


def _run(folder: pathlib.Path, cell: Mapping[str, Any], order: Sequence[str]) -> RunRecord:
    home = folder / "runs" / cell["run"]
    return RunRecord(
        levels={name: cell["levels"][name] for name in order},  # The keys of JSON are sorted.
        seed=cell["seed"],
        name=cell["run"],
        folder=home,
        label=cell["label"],
        epochs=cell["epochs"],
        rows=rows(home),
        error=error_of(home),
    )
