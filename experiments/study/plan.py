"""The runs of a study and their folders.

A run's folder is named after its config, as far as it differs from the defaults. So equal cells
share a run, in one grid or several, and all students of a teacher share the teacher.
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

from experiments.study import cells, records, validation
from experiments.study.cells import Cell
from experiments.study.design import Grid, Study
from rrd_jax import errors
from rrd_jax.config import parse, unused_fields
from rrd_jax.run_folder import atomic_write, provenance, workdir
from rrd_jax.terminal import console
from rrd_jax.training.recipe import Job, Part


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, which can belong to several grids.

    Attributes:
      name: its folder below runs/.
      label: its name for the console.
      job: of the run; teachers that the study trains have no checkpoint.
      teachers: folders of its teachers, below the study's or elsewhere; "" for weights in memory.
      after: name of the run whose network it starts from, or "".
      measures: by name.
    """

    name: str
    label: str
    job: Job
    teachers: tuple[str, ...]
    after: str
    measures: tuple[str, ...]

    @property
    def epochs(self) -> int:
        """The number of epochs that the run trains for."""
        return self.job.student.training.epochs


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study's runs, in the order in which they are made.

    Attributes:
      study: what they are for.
      folder: of the study.
      runs: by name.
      cells: of all grids.
      owners: of each teacher that is trained here, by its folder below the study's: the first run
        that has it, of the whole study, and its place among that run's teachers.
    """

    study: Study
    folder: pathlib.Path
    runs: Mapping[str, Run]
    cells: tuple[Cell, ...]
    owners: Mapping[str, tuple[Run, int]]

    def teachers(self) -> dict[str, tuple[Run, int]]:
        """Returns the `owners` that the runs need."""
        needed = {path for run in self.runs.values() for path in run.teachers}
        return {path: owner for path, owner in self.owners.items() if path in needed}

    def only(self, patterns: Sequence[str]) -> "Plan":
        """Returns the part whose cells match a pattern, with the runs that they start from.

        Raises:
          InputError: a pattern matches no cell.
        """
        if not patterns:
            return self
        for pattern in patterns:
            if not any(_fits(cell, pattern) for cell in self.cells):
                labels = sorted({cell.label.rpartition("/")[0] for cell in self.cells})
                raise errors.InputError(
                    f"--only={pattern} fits none of the {len(self.cells)} cells, which are"
                    f" {', '.join(labels[:12])}{', ...' * (len(labels) > 12)} with /seedN behind;"
                    " * stands for anything"
                )
        names = {cell.run for cell in self.cells if any(_fits(cell, p) for p in patterns)}
        names |= {self.runs[name].after for name in names} - {""}
        runs = {name: run for name, run in self.runs.items() if name in names}
        return dataclasses.replace(self, runs=runs)

    def write(self) -> None:
        """Writes study.json for `records.read`."""
        grids = [_grid_json(grid, self) for grid in self.study.grids]
        plan = {
            "name": self.study.name,
            "title": self.study.title,
            "about": self.study.about,
            "provenance": provenance.describe(),
            "grids": grids,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write.write_json(self.folder / records.PLAN, plan)


def load(text: str) -> Study:
    """Loads a study from --study: PATH, or PATH:ARGUMENT.

    Raises:
      InputError: the file is missing, fails, or has no study.
    """
    path, _, argument = text.partition(":")
    if not path or not pathlib.Path(path).is_file():
        files = sorted(pathlib.Path("experiments/studies").glob("*.py"))
        known = [str(file) for file in files if "def get_study" in file.read_text()]
        raise errors.InputError(
            f"--study={text}: there is no file {path or '(empty)'}; {', '.join(known)}"
        )
    study = cells.call(path, "get_study", argument)
    validation.check(study)
    return study


def make(
    study: Study, folder: pathlib.Path, *, seeds: int = 0, fields: Sequence[str] = (), platform=None
) -> Plan:
    """Plans the runs of a study.

    Args:
      study: from `load`.
      folder: of the study.
      seeds: of each cell, in place of the study's: 0 to this number less one; 0 for the study's.
      fields: FIELD=VALUE for all runs; {teacher} and {student} in a text are the networks' names.
      platform: as `parse` has it.

    Raises:
      InputError: a config is wrong, which names the cell.
    """
    if seeds:
        grids = tuple(dataclasses.replace(g, seeds=tuple(range(seeds))) for g in study.grids)
        study = dataclasses.replace(study, grids=grids)
    overrides = dict(cells.parse_override(text, study) for text in fields)
    runs: dict[str, Run] = {}
    places: list[Cell] = []
    configs: dict[str, ConfigDict] = {}
    said: dict[str, None] = {}  # the same of many cells
    for grid in study.grids:
        for cell, config, after in cells.of_grid(grid, overrides, places, configs):
            try:
                with contextlib.redirect_stdout(io.StringIO()) as notes:
                    job = parse(config, explicit=overrides, platform=platform)
            except errors.InputError as error:
                raise errors.InputError(f"cell {cell.label}: {error}") from error
            said |= dict.fromkeys(notes.getvalue().splitlines())
            run = _run(config, job, cell, after, grid.measures)
            known = runs.get(run.name)
            if known:
                measures = tuple(dict.fromkeys(known.measures + run.measures))
                run = dataclasses.replace(known, measures=measures)
            runs[run.name], configs[run.name] = run, config
            places.append(dataclasses.replace(cell, run=run.name))
    cells.check_overrides(overrides, configs.values())
    for line in said:
        console.say(line)
    owners: dict[str, tuple[Run, int]] = {}
    for run in runs.values():
        for i, path in enumerate(run.teachers):
            if path and not run.job.teachers[i].checkpoint:
                owners.setdefault(path, (run, i))
    return Plan(study, folder, runs, tuple(places), owners)


def _run(config: ConfigDict, job: Job, cell: Cell, after: str, measures: tuple[str, ...]) -> Run:
    label = ", ".join([*cell.levels.values(), f"seed {cell.seed}"])
    training = dataclasses.replace(job.student.training, label=label)
    cache = training.teacher_cache
    if cache.use == "auto" and training.epochs <= (training.augment.views or 0):
        # Else it would be used where another run has made it, and numbers follow from the order.
        cache = dataclasses.replace(cache, use="off")
        training = dataclasses.replace(training, teacher_cache=cache)
    job = dataclasses.replace(job, student=dataclasses.replace(job.student, training=training))
    teachers = tuple(
        teacher.checkpoint or f"teachers/{_name(teacher.network.model, teacher.part, job)}"
        for teacher in job.teachers
    )
    return Run(_name(config.name, job.student, job), label, job, teachers, after, measures)


def _name(what: str, part: Part, job: Job) -> str:
    """Returns the name of a folder: a description, the seed, and a digest of the config."""
    name = re.sub(r"[^\w+.-]", "_", what)[:100]
    return f"{name}-seed{part.training.seed}-{_digest(part, job)}"


def _digest(part: Part, job: Job) -> str:
    """Returns a digest of the fields that differ from their defaults; new fields keep it."""
    usual = workdir.flatten(job.default_fields)
    inert = {"method", *job.free_fields, *unused_fields(part.fields)}
    fields = {
        path: value
        for path, value in workdir.flatten(part.fields).items()
        if path not in inert and (value != usual.get(path) or path.endswith(".weight"))
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:10]


def _fits(cell: Cell, pattern: str) -> bool:
    names = (cell.label, cell.label.rpartition("/")[0])
    # A name may have brackets of its own, as that of a list.
    return pattern in names or any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _grid_json(grid: Grid, plan: Plan) -> dict[str, Any]:
    factors = list(grid.factors)
    if grid.follows:
        before = next(other for other in plan.study.grids if other.name == grid.follows)
        factors = [*before.factors, *factors]
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
        "metric": grid.metric,
        "best": grid.best,
        "shown": grid.shown,
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
