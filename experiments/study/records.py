"""Reads a study's folder: the plan in study.json, and the results of its runs.

Reading requires neither JAX nor the study's Python file, so pages can be rendered on any machine.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rrd_jax import errors, user_paths

PLAN = "study.json"
# The file in a run's folder with the reason of a failure.
FAILED = "failed.json"


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The run of a cell.

    Attributes:
      levels: the names of the cell's levels, by factor.
      seed: the seed of the run.
      name: the run's folder below runs/; cells of several grids can share a run.
      folder: the workdir of the run.
      label: the name of the cell, such as "methods/rrd+kd/seed0".
      epochs: the number of epochs to train.
      rows: the rows of metrics.jsonl, one for each epoch.
      error: the reason of a failure, or "".
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
        """The state of the run: "finished", "failed", "started" or "missing"."""
        if self.finished:
            return "finished"
        return "failed" if self.error else "started" if self.rows else "missing"


@dataclasses.dataclass(frozen=True)
class GridRecord:
    """A grid of a study with its runs; see `design.Grid` for the fields that are not listed.

    Attributes:
      factors: {"name", "label", "log", "levels": [{"name", "value"}, ...]} for each factor; the
        factors of a grid that this grid follows come first.
      compared: the factor whose levels are compared; "" for no comparison.
      published: published values by the names of a cell's levels.
      config: the launch file, with the config string of all runs after the colon.
      runs: the runs of all cells.
      selected: {"grid", "factor", "levels": {compared level: [level, ...]}} for a grid with a
        selection; {} for other grids.
    """

    name: str
    question: str
    factors: tuple[Mapping[str, Any], ...]
    seeds: tuple[int, ...]
    compared: str
    baseline: str
    metric: str
    best: str
    display: str
    measures: tuple[str, ...]
    published: Mapping[tuple[str, ...], float]
    config: str
    fields: Mapping[str, Any]
    runs: tuple[RunRecord, ...]
    selected: Mapping[str, Any]

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
    """The folder of a study; see `design.Study` for the fields that are not listed.

    Attributes:
      folder: the folder.
      provenance: command, versions, host, devices, date and commit of the last start.
    """

    folder: pathlib.Path
    name: str
    title: str
    about: str
    provenance: Mapping[str, Any]
    grids: tuple[GridRecord, ...]


def values_by_seed(runs: Sequence[RunRecord], column: str) -> dict[int, float]:
    """Returns the value of a metrics column at the last epoch of each finished run, by seed."""
    return {
        run.seed: float(value)
        for run in runs
        if run.finished and is_number(value := run.rows[-1].get(column))
    }


def is_number(value: Any) -> bool:
    """Returns True for a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def read(folder: pathlib.Path) -> StudyRecord:
    """Reads the folder of a study.

    Raises:
      InputError: the folder does not belong to a study, or is damaged.
    """
    path = folder / PLAN
    try:
        plan = user_paths.read_json(path)
        grids = tuple(_grid(folder, grid) for grid in plan["grids"])
        texts = {name: plan[name] for name in ("name", "title", "about")}
        return StudyRecord(folder=folder, provenance=plan["provenance"], grids=grids, **texts)
    except FileNotFoundError as error:
        raise errors.InputError(
            f"{folder} is not the folder of a study: {PLAN} is missing; pass the --workdir of"
            " experiments.study"
        ) from error
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise errors.InputError(
            f"{path} is damaged ({type(error).__name__}: {error}); run the study again"
            " to rewrite it; finished runs are kept"
        ) from error


def read_rows(folder: pathlib.Path) -> tuple[Mapping[str, Any], ...]:
    """Reads the rows of a run's metrics.jsonl; skips lines that are incomplete after a kill."""
    try:
        text = (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("epoch"), int):
            rows.append(row)
    return tuple(rows)


def read_error(folder: pathlib.Path) -> str:
    """Returns the reason why a run failed; "" for a run that did not fail."""
    try:
        return str(user_paths.read_json(folder / FAILED)["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _grid(folder: pathlib.Path, grid: Mapping[str, Any]) -> GridRecord:
    names = {field.name for field in dataclasses.fields(GridRecord)} - {
        "runs",
        "published",
        "display",
        "selected",
    }
    fields = {name: grid[name] for name in names}
    fields |= {name: tuple(grid[name]) for name in ("factors", "seeds", "measures")}
    fields["display"] = grid["shown"]
    published = {tuple(levels): value for levels, value in grid["published"]}
    order = [factor["name"] for factor in grid["factors"]]
    runs = tuple(_run(folder, cell, order) for cell in grid["cells"])
    # Studies of version 0.2.0 have no selections.
    return GridRecord(**fields, published=published, runs=runs, selected=grid.get("selected", {}))


def _run(study: pathlib.Path, cell: Mapping[str, Any], order: Sequence[str]) -> RunRecord:
    folder = study / "runs" / cell["run"]
    return RunRecord(
        # The keys of the JSON file are sorted.
        levels={name: cell["levels"][name] for name in order},
        seed=cell["seed"],
        name=cell["run"],
        folder=folder,
        label=cell["label"],
        epochs=cell["epochs"],
        rows=read_rows(folder),
        error=read_error(folder),
    )
