"""Cells of a grid and their configs: a launch file with options, fields and the seed."""

import ast
import dataclasses
import itertools
import pathlib
import re
import runpy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.study.design import Grid, Level, Study
from rrd_jax import errors
from rrd_jax.terminal import config_errors

# Pairs of a factor's name and a level.
_Levels = tuple[tuple[str, Level], ...]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a grid with one seed, and the run that belongs to it.

    Attributes:
      grid: the name of the grid.
      levels: names of levels by factor.
      seed: the seed of the run.
      run: the name of the run.
    """

    grid: str
    levels: Mapping[str, str]
    seed: int
    run: str

    @property
    def label(self) -> str:
        """The name that --only matches, such as methods/rrd+kd/seed0."""
        return "/".join([self.grid, *self.levels.values(), f"seed{self.seed}"])


def expand(
    grid: Grid,
    overrides: Mapping[str, Any],
    cells: Sequence[Cell],
    configs: Mapping[str, ConfigDict],
    selected: Mapping[str, Sequence[str]],
) -> Iterator[tuple[Cell, ConfigDict, str]]:
    """Yields each cell of a grid, seed by seed, with its config and the run to start from, or "".

    Args:
      grid: the grid.
      overrides: fields of all configs, from the command line.
      cells: the cells of the previous grids.
      configs: the configs of these cells' runs, by name of the run.
      selected: the levels of the factor of `grid.selection`, by level of the compared factor; other
        levels have no cells yet.

    Raises:
      InputError: a launch file or a field is invalid; the message names the cell.
    """
    starts = [cell for cell in cells if cell.grid == grid.follows] if grid.follows else [None]
    choices = [[(factor.name, level) for level in factor.levels] for factor in grid.factors]
    for seed in grid.seeds:
        for start, levels in itertools.product(starts, itertools.product(*choices)):
            if start and start.seed != seed:
                continue
            names = dict(start.levels) if start else {}
            names |= {factor: level.name for factor, level in levels}
            if grid.selection:
                level = names[grid.selection.factor]
                if level not in selected.get(names[grid.compared], ()):
                    continue
                if grid.selection.count == 1:
                    del names[grid.selection.factor]
            cell = Cell(grid.name, names, seed, "")
            student = configs[start.run].student if start else None
            config = _cell_config(grid, levels, cell, student and student.model)
            _check_method(config, levels, cell)
            if student:
                config.student.model, config.student.options = student.model, student.options
                # The worker replaces the name by the run's folder.
                config.student.checkpoint = start.run
            fields = {**grid.fields}
            for _, level in levels:
                fields |= level.fields
                _scale(config, level.scales)
            fields |= dict.fromkeys(grid.seeded, seed)
            _set_fields(config, fields | _applicable(config, overrides), cell)
            config.baseline = False
            yield cell, config, start.run if start else ""


def _cell_config(grid: Grid, levels: _Levels, cell: Cell, student: str | None) -> ConfigDict:
    """Returns the config of a cell.

    Methods without a teacher get a teacher too, so that their agreement with it is reported.

    Args:
      grid: the grid of the cell.
      levels: the levels of the grid's factors, without those of a grid that it follows.
      cell: the cell, for messages.
      student: the network of the run to start from; None without such a run.
    """
    path = next((level.config for _, level in levels if level.config), grid.config)
    arguments = [student or "", grid.argument, *(level.argument for _, level in levels)]
    options = ",".join(arguments).split(",")
    config = _load_config(path, options, cell)
    if student is None and config.method == "ce" and "ce" in options:
        others = ["kd" if option == "ce" else option for option in options]
        with config.ignore_type():
            config.teacher = _load_config(path, others, cell).teacher
    return config


def _check_method(config: ConfigDict, levels: _Levels, cell: Cell) -> None:
    """Raises an InputError for a level of the factor "method" that is not a method."""
    for factor, level in levels:
        # The argument may contain networks too.
        words = level.argument.split(",")
        if factor == "method" and level.argument and config.method not in words:
            raise errors.InputError(
                f"cell {cell.label}: '{level.argument}' is not a method, the config still has"
                f" '{config.method}'; run python -m rrd_jax.objectives for a list of objectives"
            )


def _scale(config: ConfigDict, scales: Mapping[str, float]) -> None:
    """Multiplies options of the objectives of a method; see `Level.scales`."""
    names = [name for name in config.objectives if name != "ce"] or ["ce"]
    for option, factor in scales.items():
        for fields in (config.objectives[name] for name in names):
            for path in (option, f"{option}_student", f"{option}_teacher"):
                if fields.get(path) is not None:
                    with fields.ignore_type():
                        # Products such as 0.1 * 3 have a short decimal form.
                        fields[path] = float(f"{fields[path] * factor:.9g}")


def _load_config(path: str, options: Iterable[str], cell: Cell) -> ConfigDict:
    file, _, argument = path.partition(":")
    try:
        if not pathlib.Path(file).is_file():
            raise errors.InputError(f"launch file {file} does not exist; correct the path")
        config = call_function(file, "get_config", ",".join(filter(None, [argument, *options])))
        if not hasattr(config, "train"):
            raise errors.InputError(config_errors.wrong_return(file, config))
    except errors.InputError as error:
        raise errors.InputError(f"cell {cell.label}: {error}") from error
    return config


def _set_fields(config: ConfigDict, fields: Mapping[str, Any], cell: Cell) -> None:
    for path, value in fields.items():
        for section, name, teacher in _sections(config, path):
            text = value
            if isinstance(value, str):
                text = value.replace("{teacher}", teacher)
                text = text.replace("{student}", config.student.model)
                _check_placeholders(path, text)
            try:
                section.update_from_flattened_dict({name: text})
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                reason = config_errors.unquoted(str(error)).split("\n")[0]
                raise errors.InputError(
                    f"cell {cell.label}: field {path} cannot be {text!r}: {reason}"
                ) from error


def _check_placeholders(path: str, text: str) -> None:
    """Raises an InputError for a placeholder such as {foo}, which nothing replaces."""
    if unknown := re.search(r"\{\w+\}", text):
        raise errors.InputError(
            f"field {path} has the unknown placeholder {unknown[0]}; use {{teacher}} or {{student}}"
        )


def _applicable(config: ConfigDict, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the overrides, without options of objectives that the config lacks."""
    return {
        path: value
        for path, value in overrides.items()
        if not path.startswith("objectives.") or path.split(".")[1] in config.objectives
    }


def check_overrides(overrides: Iterable[str], configs: Iterable[ConfigDict]) -> None:
    """Raises an InputError for an option of an objective that no run has."""
    objectives = {f"objectives.{name}" for config in configs for name in config.objectives}
    for path in overrides:
        if path.startswith("objectives.") and ".".join(path.split(".")[:2]) not in objectives:
            raise errors.InputError(
                f"--set={path}: no run has this objective; known: {', '.join(sorted(objectives))}"
            )


def _sections(config: ConfigDict, path: str) -> Iterator[tuple[ConfigDict, str, str]]:
    """Yields each section that contains a field, the field's path in it, and the teacher's name.

    With several teachers, `teacher.` selects all of them, and `teacher[1].` a single teacher.
    """
    teachers = config.teacher
    if not isinstance(teachers, list | tuple):
        yield config, path, teachers.model
        return
    section, _, name = path.partition(".")
    selections = {f"teacher[{i}]": [fields] for i, fields in enumerate(teachers)}
    selections["teacher"] = teachers
    if section not in selections:
        yield config, path, "+".join(fields.model for fields in teachers)
    for fields in selections.get(section, []):
        yield fields, name, fields.model


def parse_override(text: str, study: Study) -> tuple[str, Any]:
    """Parses FIELD=VALUE, or raises an InputError for a field that cannot be set."""
    path, sign, value = text.partition("=")
    if not sign or not path:
        raise errors.InputError(
            f"--set={text} is not FIELD=VALUE; for example --set=data.dir=/data"
        )
    if path in ("seed", "method"):
        raise errors.InputError(
            f"--set={text}: the study defines methods and seeds; use --seeds, or change the study"
        )
    for grid in study.grids:
        varied = {path for f in grid.factors for level in f.levels for path in level.fields}
        if path in varied | set(grid.seeded):
            raise errors.InputError(
                f"--set={text}: grid '{grid.name}' varies this field; leave --set out"
            )
    try:
        return path, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return path, value


def call_function(path: str, name: str, argument: str) -> Any:
    """Calls a function of a user's Python file and returns the result.

    Raises:
      InputError: the file or the function fails.
    """
    try:
        functions = runpy.run_path(path)
        if name not in functions:
            raise errors.InputError(f"{path} does not define {name}(argument); add this function")
        return functions[name](argument)
    except errors.InputError:
        raise
    # A user's program can raise anything.
    except (Exception, SystemExit) as error:
        raise errors.InputError(
            config_errors.message(error, path)
            or f"{path} cannot be run ({' '.join(f'{type(error).__name__}: {error}'.split())})"
        ) from error
