"""The runs of a study and their folders.

The name of a run's folder contains a digest of the config fields that differ from their defaults.
Equal cells of all grids therefore share a run, and all students of a teacher share the teacher.
"""

import contextlib
import dataclasses
import fnmatch
import hashlib
import io
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.study import cells, records, selection, validation
from experiments.study.cells import Cell
from experiments.study.design import Grid, Study
from rrd_jax import errors
from rrd_jax.config import parse, unused_fields
from rrd_jax.run_folder import atomic_write, provenance, workdir
from rrd_jax.run_folder.config_fields import flatten
from rrd_jax.terminal import console
from rrd_jax.training.recipe import Job, Part
from rrd_jax.weights import files


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, which can belong to several grids.

    Attributes:
      name: the name of the folder below runs/.
      label: the name on the console.
      job: the job of the run; teachers that the study trains have no checkpoint.
      teachers: paths of the teachers, relative to the study's folder or elsewhere; "" for weights
        in memory.
      follows: the name of the run whose network this run starts from, or "".
      measures: names of the measures to compute.
    """

    name: str
    label: str
    job: Job
    teachers: tuple[str, ...]
    follows: str
    measures: tuple[str, ...]

    @property
    def epochs(self) -> int:
        """The number of epochs that the run trains for."""
        return self.job.student.training.epochs


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of a study, in the order of execution.

    Attributes:
      study: the study.
      folder: the folder of the study.
      runs: runs by name.
      cells: the cells of all grids.
      owners: for each teacher that the study trains, by its path relative to the study's folder:
        the first run of the study that needs the teacher, and the index among this run's teachers.
      selected: the levels of `Grid.selection` by level of the compared factor, by name of the grid.
    """

    study: Study
    folder: pathlib.Path
    runs: Mapping[str, Run]
    cells: tuple[Cell, ...]
    owners: Mapping[str, tuple[Run, int]]
    selected: Mapping[str, Mapping[str, Sequence[str]]]

    def teachers(self) -> dict[str, tuple[Run, int]]:
        """Returns the entries of `owners` whose teachers the runs need."""
        needed = {path for run in self.runs.values() for path in run.teachers}
        return {path: owner for path, owner in self.owners.items() if path in needed}

    def only(self, patterns: Sequence[str]) -> "Plan":
        """Returns the runs whose cells match a pattern, and the runs that they start from.

        Raises:
          InputError: a pattern matches no cell.
        """
        if not patterns:
            return self
        for pattern in patterns:
            if not any(_matches(cell, pattern) for cell in self.cells):
                labels = sorted({cell.label.rpartition("/")[0] for cell in self.cells})
                raise errors.InputError(
                    f"--only={pattern} matches none of the {len(self.cells)} cells; known:"
                    f" {', '.join(labels[:12])}{', ...' * (len(labels) > 12)}, each followed by"
                    " /seedN; use * as a wildcard"
                )
        names = {cell.run for cell in self.cells if any(_matches(cell, p) for p in patterns)}
        names |= {self.runs[name].follows for name in names} - {""}
        runs = {name: run for name, run in self.runs.items() if name in names}
        return dataclasses.replace(self, runs=runs)

    def write(self) -> None:
        """Writes study.json for `records.read`.

        Raises:
          InputError: the folder of the study cannot be created.
          DiskError: the folder of the study cannot be written.
        """
        grids = [_grid_json(grid, self) for grid in self.study.grids]
        plan = {
            "name": self.study.name,
            "title": self.study.title,
            "about": self.study.about,
            "provenance": provenance.describe(),
            "grids": grids,
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise workdir.unusable_error(self.folder, error) from error
        atomic_write.write_json(self.folder / records.PLAN, plan)


def load(text: str) -> Study:
    """Loads the study of --study, which is PATH or PATH:ARGUMENT.

    Raises:
      InputError: the file is missing, fails, or does not define a study.
    """
    path, _, argument = text.partition(":")
    if not path or not pathlib.Path(path).is_file():
        files = sorted(pathlib.Path("experiments/studies").glob("*.py"))
        studies = [str(file) for file in files if "def get_study" in file.read_text()]
        advice = f"known: {', '.join(studies)}" if studies else "pass a Python file with get_study"
        raise errors.InputError(f"--study={text}: file {path!r} does not exist; {advice}")
    study = cells.call_function(path, "get_study", argument)
    validation.check(study)
    return study


def make(
    study: Study, folder: pathlib.Path, *, seeds: int = 0, fields: Sequence[str] = (), platform=None
) -> Plan:
    """Plans the runs of a study.

    Args:
      study: from `load`.
      folder: the folder of the study.
      seeds: number of seeds of each cell, from 0; 0 for the study's seeds.
      fields: FIELD=VALUE for all runs; {teacher} and {student} are replaced by the networks' names.
      platform: see `rrd_jax.config.parse`.

    Raises:
      InputError: a config is invalid; the message names the cell.
    """
    if seeds:
        # Selections use other seeds than the comparison.
        selecting = {grid.selection.grid for grid in study.grids if grid.selection}
        grids = tuple(
            grid if grid.name in selecting else dataclasses.replace(grid, seeds=tuple(range(seeds)))
            for grid in study.grids
        )
        study = dataclasses.replace(study, grids=grids)
    overrides = dict(cells.parse_override(text, study) for text in fields)
    runs: dict[str, Run] = {}
    planned: list[Cell] = []
    configs: dict[str, ConfigDict] = {}
    selected: dict[str, dict[str, list[str]]] = {}
    # Many cells print the same notes.
    lines: dict[str, None] = {}
    for grid in study.grids:
        levels = selection.select(grid, study, planned, runs, folder) if grid.selection else {}
        selected[grid.name] = levels
        for cell, config, follows in cells.expand(grid, overrides, planned, configs, levels):
            config.report.group = config.report.group or study.name
            try:
                with contextlib.redirect_stdout(io.StringIO()) as notes:
                    job = parse(config, explicit=overrides, platform=platform)
                _check_weights(job, follows)
            except errors.InputError as error:
                raise errors.InputError(f"cell {cell.label}: {error}") from error
            lines |= dict.fromkeys(notes.getvalue().splitlines())
            run = _make_run(config, job, cell, follows, grid.measures)
            previous = runs.get(run.name)
            if previous:
                measures = tuple(dict.fromkeys(previous.measures + run.measures))
                run = dataclasses.replace(previous, measures=measures)
            runs[run.name], configs[run.name] = run, config
            planned.append(dataclasses.replace(cell, run=run.name))
    cells.check_overrides(overrides, configs.values())
    for line in lines:
        console.say(line)
    owners: dict[str, tuple[Run, int]] = {}
    for run in runs.values():
        for i, path in enumerate(run.teachers):
            if path and not run.job.teachers[i].checkpoint:
                owners.setdefault(path, (run, i))
    return Plan(study, folder, runs, tuple(planned), owners, selected)


def _check_weights(job: Job, follows: str) -> None:
    """Raises an InputError for weights that do not exist, before any run starts."""
    paths = [("teacher.checkpoint", teacher.checkpoint) for teacher in job.teachers]
    if not follows:
        paths.append(("student.checkpoint", job.student.training.start.checkpoint))
    for field, path in paths:
        if path and not files.split(pathlib.Path(path))[0].exists():
            raise errors.InputError(f"{field} is '{path}', which does not exist; correct the path")


def _make_run(
    config: ConfigDict, job: Job, cell: Cell, follows: str, measures: tuple[str, ...]
) -> Run:
    label = ", ".join([*cell.levels.values(), f"seed {cell.seed}"])
    training = dataclasses.replace(job.student.training, label=label)
    cache = training.teacher_cache
    if cache.use == "auto" and training.epochs <= (training.augment.views or 0):
        # With "auto", the run would use a cache that another run has filled, and the results would
        # depend on the order of the runs.
        cache = dataclasses.replace(cache, use="off")
        training = dataclasses.replace(training, teacher_cache=cache)
    job = dataclasses.replace(job, student=dataclasses.replace(job.student, training=training))
    teachers = tuple(
        teacher.checkpoint or f"teachers/{_name(teacher.network.model, teacher.part, job)}"
        for teacher in job.teachers
    )
    return Run(_name(config.name, job.student, job), label, job, teachers, follows, measures)


def _name(description: str, part: Part, job: Job) -> str:
    """Returns the name of a folder: a description, the seed, and a digest of the config."""
    name = re.sub(r"[^\w+.-]", "_", description)[:100]
    return f"{name}-seed{part.training.seed}-{_digest(part, job)}"


def _digest(part: Part, job: Job) -> str:
    """Returns a digest of the fields that differ from their defaults.

    A new field with its default value does not change the digest.
    """
    defaults = flatten(job.default_fields)
    inert = {"method", *job.free_fields, *unused_fields(part.fields)}
    fields = {
        path: value
        for path, value in flatten(part.fields).items()
        if path not in inert and (value != defaults.get(path) or path.endswith(".weight"))
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:10]


def _matches(cell: Cell, pattern: str) -> bool:
    names = (cell.label, cell.label.rpartition("/")[0])
    # Names of lists contain brackets, which are wildcards for fnmatch.
    return pattern in names or any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _grid_json(grid: Grid, plan: Plan) -> dict[str, Any]:
    chosen, factors = grid.selection, list(grid.factors)
    if chosen and chosen.count == 1:
        factors = [factor for factor in factors if factor.name != chosen.factor]
    if grid.follows:
        previous = next(other for other in plan.study.grids if other.name == grid.follows)
        factors = [*previous.factors, *factors]
    return {
        "name": grid.name,
        "question": grid.question,
        "config": grid.config + (f":{grid.argument}" if grid.argument else ""),
        "fields": dict(grid.fields),
        "factors": [
            {
                "name": factor.name,
                "label": factor.label or factor.name,
                "log": factor.log,
                "levels": [{"name": x.name, "value": x.value} for x in factor.levels],
            }
            for factor in factors
        ],
        "seeds": list(grid.seeds),
        "compared": grid.compared if any(f.name == grid.compared for f in factors) else "",
        "baseline": grid.baseline,
        "selected": {
            "grid": chosen.grid,
            "factor": chosen.factor,
            "levels": plan.selected[grid.name],
        }
        if chosen
        else {},
        "metric": grid.metric,
        "best": grid.best,
        "shown": grid.display,
        "measures": list(grid.measures),
        "published": [[list(levels), value] for levels, value in grid.published.items()],
        "cells": [
            {
                "levels": dict(cell.levels),
                "seed": cell.seed,
                "run": cell.run,
                "label": cell.label,
                "epochs": plan.runs[cell.run].epochs,
            }
            for cell in plan.cells
            if cell.grid == grid.name
        ],
    }
