"""What a study's folder holds: the plan in study.json, and what its runs have come to.

Reading it takes neither JAX nor the study file, so that pages can be made anywhere.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rrd_jax import errors

PLAN = "study.json"
FAILED = "failed.json"  # in the folder of a run: why it did not come to its end


@dataclasses.dataclass(frozen=True)
class Entry:
    """A run in its place in a grid.

    Attributes:
      levels: the names of its levels, by factor.
      seed: of the run.
      name: of the run, its folder below runs/; the same run can have places in several grids.
      folder: its workdir.
      teachers: folders of its teachers.
      label: what it is called, such as "methods: rrd+kd, seed 0".
      epochs: all that it is to make.
      rows: of metrics.jsonl, an epoch each.
      error: why it failed, or "".
    """

    levels: Mapping[str, str]
    seed: int
    name: str
    folder: pathlib.Path
    teachers: tuple[pathlib.Path, ...]
    label: str
    epochs: int
    rows: tuple[Mapping[str, Any], ...]
    error: str

    @property
    def finished(self) -> bool:
        """Whether the run has made all its epochs."""
        return bool(self.rows) and self.rows[-1].get("epoch", 0) >= self.epochs

    @property
    def state(self) -> str:
        """What of the run is there: finished, failed, begun or missing."""
        if self.finished:
            return "finished"
        return "failed" if self.error else "begun" if self.rows else "missing"

    def figure(self, column: str) -> float | None:
        """Of the last epoch of a finished run; None where there is none."""
        value = self.rows[-1].get(column) if self.finished else None
        return None if value is None else float(value)


@dataclasses.dataclass(frozen=True)
class GridRecord:
    """A grid of a study, as study.json has it, with its runs.

    Attributes:
      name: of the grid.
      question: that it answers.
      factors: {"name", "label", "log", "levels": [{"name", "value"}, ...]} of each factor, those of
        a grid that it follows first.
      seeds: that were asked for.
      compared: the factor whose levels are compared, "" for none.
      baseline: its level that the others are compared with, or "".
      metric: the column of metrics.jsonl that is compared.
      best: the column of the best epoch.
      shown: "table", "map" or "curve".
      measures: by name, of each run.
      published: by the names of a cell's levels.
      config: the launch file, with what all runs have behind its colon.
      fields: of the config, of all runs.
      entries: its runs.
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
    entries: tuple[Entry, ...]

    def cells(self) -> dict[tuple[str, ...], list[Entry]]:
        """The runs of each cell, by its levels' names in the order of the factors."""
        cells: dict[tuple[str, ...], list[Entry]] = {}
        for entry in self.entries:
            cells.setdefault(tuple(entry.levels.values()), []).append(entry)
        return cells

    def blocks(self) -> dict[tuple[str, ...], dict[str, list[Entry]]]:
        """The runs by the levels of the factors that are not compared, then by those that are."""
        blocks: dict[tuple[str, ...], dict[str, list[Entry]]] = {}
        for entry in self.entries:
            others = tuple(v for k, v in entry.levels.items() if k != self.compared)
            level = entry.levels.get(self.compared, "")
            blocks.setdefault(others, {}).setdefault(level, []).append(entry)
        return blocks

    def values(self, column: str = "") -> dict[tuple[str, ...], dict[int, float]]:
        """Of each cell: a column's figure of the last epoch by seed, of the runs that finished.

        Args:
          column: of metrics.jsonl; "" for the grid's metric.
        """
        cells = self.cells().items()
        return {levels: figures(entries, column or self.metric) for levels, entries in cells}


@dataclasses.dataclass(frozen=True)
class Record:
    """A study's folder.

    Attributes:
      folder: of the study.
      name: of the study.
      title: of its page.
      about: the setting.
      command: that started it last.
      provenance: versions, host, devices, date and commit of the last start.
      grids: with their runs.
      calculations: curves by name, as JSON of `experiments.theory.Curves`.
    """

    folder: pathlib.Path
    name: str
    title: str
    about: str
    command: str
    provenance: Mapping[str, Any]
    grids: tuple[GridRecord, ...]
    calculations: Mapping[str, Mapping[str, Any]]


def figures(entries: Sequence[Entry], column: str) -> dict[int, float]:
    """A column's figure of the last epoch by seed, of the runs that finished and have a number."""
    found = {entry.seed: entry.figure(column) for entry in entries}
    return {
        seed: figure
        for seed, figure in found.items()
        if figure is not None and not math.isnan(figure)
    }


def read(folder: pathlib.Path) -> Record:
    """A study from its folder.

    Raises:
      InputError: it is not the folder of a study, or damaged.
    """
    path = folder / PLAN
    try:
        plan = errors.read_json(path)
    except FileNotFoundError as error:
        raise errors.InputError(
            f"{folder} is not the folder of a study: it has no {PLAN}; name the --workdir of"
            " experiments.study"
        ) from error
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    try:
        grids = tuple(_grid(folder, grid) for grid in plan["grids"])
        names = plan["calculations"]
        return Record(
            folder=folder,
            name=plan["name"],
            title=plan["title"],
            about=plan["about"],
            command=plan["provenance"]["command"],
            provenance=plan["provenance"],
            grids=grids,
            calculations=dict(_calculations(folder, names)),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def rows(folder: pathlib.Path) -> tuple[Mapping[str, Any], ...]:
    """The epochs in a run's metrics.jsonl; lines that a kill left half-written are left out."""
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    found = []
    for line in lines.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("epoch"), int):
            found.append(row)
    return tuple(found)


def error_of(folder: pathlib.Path) -> str:
    """Why a run failed, "" where it did not."""
    try:
        return str(errors.read_json(folder / FAILED)["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _grid(folder: pathlib.Path, grid: Mapping[str, Any]) -> GridRecord:
    fields = {field.name for field in dataclasses.fields(GridRecord)}
    given = {name: grid[name] for name in fields - {"entries", "published"}}
    given |= {name: tuple(given[name]) for name in ("factors", "seeds", "measures")}
    published = {tuple(levels): value for levels, value in grid["published"]}
    order = [factor["name"] for factor in grid["factors"]]
    entries = tuple(_entry(folder, cell, order) for cell in grid["cells"])
    return GridRecord(**given, published=published, entries=entries)


def _entry(folder: pathlib.Path, cell: Mapping[str, Any], order: Sequence[str]) -> Entry:
    home = folder / "runs" / cell["run"]
    return Entry(
        levels={name: cell["levels"][name] for name in order},  # JSON's keys are sorted
        seed=cell["seed"],
        name=cell["run"],
        folder=home,
        teachers=tuple(folder / path for path in cell["teachers"]),
        label=cell["label"],
        epochs=cell["epochs"],
        rows=rows(home),
        error=error_of(home),
    )


def _calculations(
    folder: pathlib.Path, names: list[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name in names:
        path = folder / "calculations" / f"{name}.json"
        if not path.exists():
            continue
        try:
            yield name, errors.read_json(path)
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error


def _damaged(path: pathlib.Path, error: Exception) -> errors.InputError:
    return errors.InputError(
        f"{path} is damaged ({type(error).__name__}: {error}); start the same study again, which"
        " writes it anew and keeps the runs"
    )
