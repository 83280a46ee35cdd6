"""The cells of a grid, and their configs: a launch file with options, fields and the seed."""

import ast
import dataclasses
import itertools
import pathlib
import runpy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.study.design import Grid, Level, Study
from rrd_jax import errors
from rrd_jax.terminal import config_errors

_Levels = tuple[tuple[str, Level], ...]  # Factors and levels.


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run's place in a grid.

    Attributes:
      grid: its name.
      levels: names of levels by factor.
      seed: of the run.
      run: its name.
    """

    grid: str
    levels: Mapping[str, str]
    seed: int
    run: str

    @property
    def label(self) -> str:
        """The name for --only, such as methods/rrd+kd/seed0."""
        return "/".join([self.grid, *self.levels.values(), f"seed{self.seed}"])


def of_grid(
    grid: Grid,
    overrides: Mapping[str, Any],
    cells: Sequence[Cell],
    configs: Mapping[str, ConfigDict],
) -> Iterator[tuple[Cell, ConfigDict, str]]:
    """Yields the cells of a grid seed by seed, with their configs and the run to start from, or "".

    Args:
      grid: the grid.
      overrides: fields of all configs, from the command line.
      cells: of the previous grids.
      configs: of the runs of these cells, by the runs' names.

    Raises:
      InputError: a launch file or a field is wrong; it names the cell.
    """
    before = [cell for cell in cells if cell.grid == grid.follows] if grid.follows else [None]
    choices = [[(factor.name, level) for level in factor.levels] for factor in grid.factors]
    for seed in grid.seeds:
        for start, levels in itertools.product(before, itertools.product(*choices)):
            if start and start.seed != seed:
                continue
            names = dict(start.levels) if start else {}
            names |= {factor: level.name for factor, level in levels}
            cell = Cell(grid.name, names, seed, "")
            student = configs[start.run].student if start else None
            config = _config(grid, levels, cell, student and student.model)
            _check_method(config, levels, cell)
            if student:
                config.student.model, config.student.options = student.model, student.options
                config.student.checkpoint = start.run  # The name, until the run's folder is known.
            fields = {**grid.fields}
            for _, level in levels:
                fields |= level.fields
            fields |= dict.fromkeys(grid.seeded, seed)
            _set(config, fields | _applicable(config, overrides), cell)
            config.baseline = False
            yield cell, config, start.run if start else ""


def _config(grid: Grid, levels: _Levels, cell: Cell, student: str | None) -> ConfigDict:
    """Returns the config of a cell; methods without a teacher get one too, to compare with.

    Args:
      grid: of the cell.
      levels: of the factors of the grid itself.
      cell: for messages.
      student: the network of the run that this one starts from; None without such a run.
    """
    path = next((level.config for _, level in levels if level.config), grid.config)
    arguments = [student or "", grid.argument, *(level.argument for _, level in levels)]
    options = ",".join(arguments).split(",")
    config = _launch(path, options, cell)
    if student is None and config.method == "ce" and "ce" in options:
        others = ["kd" if option == "ce" else option for option in options]
        with config.ignore_type():
            config.teacher = _launch(path, others, cell).teacher
    return config


def _check_method(config: ConfigDict, levels: _Levels, cell: Cell) -> None:
    """Raises an InputError for a level of the factor "method" that is not a method."""
    for factor, level in levels:
        named = level.argument.split(",")  # The argument may name networks too.
        if factor == "method" and level.argument and config.method not in named:
            raise errors.InputError(
                f"cell {cell.label}: '{level.argument}' is no method: the config's is still"
                f" '{config.method}'; python -m rrd_jax.objectives lists what methods are made of"
            )


def _launch(path: str, options: Iterable[str], cell: Cell) -> ConfigDict:
    file, _, argument = path.partition(":")
    try:
        if not pathlib.Path(file).is_file():
            raise errors.InputError(f"there is no file {file}")
        config = call(file, "get_config", ",".join(filter(None, [argument, *options])))
        if not hasattr(config, "train"):
            raise errors.InputError(config_errors.wrong_return(file, config))
    except errors.InputError as error:
        raise errors.InputError(f"cell {cell.label}: {error}") from error
    return config


def _set(config: ConfigDict, fields: Mapping[str, Any], cell: Cell) -> None:
    for path, value in fields.items():
        for place, inside, teacher in _places(config, path):
            text = value
            if isinstance(value, str):
                text = value.replace("{teacher}", teacher)
                text = text.replace("{student}", config.student.model)
            try:
                place.update_from_flattened_dict({inside: text})
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                reason = config_errors.unquoted(str(error)).split("\n")[0]
                raise errors.InputError(
                    f"cell {cell.label}: field {path} cannot be {text!r}: {reason}"
                ) from error


def _applicable(config: ConfigDict, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the overrides without options of objectives that the config does not have."""
    return {
        path: value
        for path, value in overrides.items()
        if not path.startswith("objectives.") or path.split(".")[1] in config.objectives
    }


def check_overrides(overrides: Iterable[str], configs: Iterable[ConfigDict]) -> None:
    """Raises an InputError for an option of an objective that no run has."""
    known = {f"objectives.{name}" for config in configs for name in config.objectives}
    for path in overrides:
        if path.startswith("objectives.") and ".".join(path.split(".")[:2]) not in known:
            raise errors.InputError(
                f"--set={path}: no run has that objective; {', '.join(sorted(known))}"
            )


def _places(config: ConfigDict, path: str) -> Iterator[tuple[ConfigDict, str, str]]:
    """Yields the dicts that contain a field, its path in them, and the teacher's name.

    With several teachers, `teacher.` stands for all of them, and `teacher[1].` for one.
    """
    teachers = config.teacher
    if not isinstance(teachers, list | tuple):
        yield config, path, teachers.model
        return
    section, _, inside = path.partition(".")
    names = {f"teacher[{i}]": [fields] for i, fields in enumerate(teachers)} | {"teacher": teachers}
    if section not in names:
        yield config, path, "+".join(fields.model for fields in teachers)
    for fields in names.get(section, []):
        yield fields, inside, fields.model


def parse_override(text: str, study: Study) -> tuple[str, Any]:
    """Parses FIELD=VALUE; raises an InputError for a field that cannot be set."""
    path, sign, value = text.partition("=")
    if not sign or not path:
        raise errors.InputError(f"--set={text} is not FIELD=VALUE, such as --set=data.dir=/data")
    if path in ("seed", "method"):
        raise errors.InputError(f"--set={text}: the study says what methods and seeds there are")
    for grid in study.grids:
        varied = {path for f in grid.factors for level in f.levels for path in level.fields}
        if path in varied | set(grid.seeded):
            raise errors.InputError(f"--set={text}: grid '{grid.name}' varies this field itself")
    try:
        return path, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return path, value


def call(path: str, name: str, argument: str) -> Any:
    """Calls a function of a user's Python file, and returns its result.

    Raises:
      InputError: the file or the function fails.
    """
    try:
        functions = runpy.run_path(path)
        if name not in functions:
            raise errors.InputError(f"{path} must define {name}(argument), and does not")
        return functions[name](argument)
    except errors.InputError:
        raise
    except (Exception, SystemExit) as error:  # A user's program can raise anything.
        raise errors.InputError(
            config_errors.message(error, path)
            or f"{path} cannot be run ({' '.join(f'{type(error).__name__}: {error}'.split())})"
        ) from error
