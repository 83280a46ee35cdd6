"""What is wrong with a study, found before anything of it is made."""

import math
import re
from collections.abc import Mapping
from typing import Any

from experiments.study.design import SHOWN, Factor, Grid, Level, Study, is_number
from rrd_jax import errors


def check(study: Study) -> None:
    """Raises an InputError for a study that cannot be run or compared."""
    if not isinstance(study, Study):
        raise errors.InputError(
            f"get_study returned {type(study).__name__}, but must return a Study of"
            " experiments.study.design"
        )
    _check_kind("grids", study.grids, Grid)
    _check_word("study", study.name)
    if not study.grids and not study.calculations:
        raise errors.InputError(f"study '{study.name}' has neither grids nor calculations")
    _check_names("grids", [grid.name for grid in study.grids])
    for grid in study.grids:
        _check_grid(grid, study)


def _check_grid(grid: Grid, study: Study) -> None:
    _check_word("grid", grid.name)
    _check_kind(f"factors of grid '{grid.name}'", grid.factors, Factor)
    _check_kind(f"seeds of grid '{grid.name}'", grid.seeds, int)
    _check_kind(f"measures of grid '{grid.name}'", grid.measures, str)
    _check_kind(f"seeded of grid '{grid.name}'", grid.seeded, str)
    _check_texts(grid, "question", "config", "argument", "compared", "baseline", "metric", "best")
    _check_mapping(f"fields of grid '{grid.name}'", grid.fields)
    known = {factor.name: factor for factor in grid.factors}
    _check_names(f"factors of grid '{grid.name}'", [factor.name for factor in grid.factors])
    for factor in grid.factors:
        _check_factor(factor, grid)
    _check_fields(grid)
    if not grid.seeds or len(set(grid.seeds)) < len(grid.seeds):
        raise errors.InputError(f"grid '{grid.name}' has seeds {grid.seeds}: give some, each once")
    grids = {other.name: other for other in study.grids}
    if grid.follows:
        before = errors.lookup("grid to follow", grid.follows, grids)
        if before.follows or list(grids).index(before.name) > list(grids).index(grid.name):
            raise errors.InputError(
                f"grid '{grid.name}' follows '{before.name}', which must stand before it and follow"
                " none"
            )
        known = {factor.name: factor for factor in before.factors} | known
    every = [all(level.config for level in factor.levels) for factor in grid.factors]
    if not grid.config and not any(every):
        raise errors.InputError(f"grid '{grid.name}' has no config; name a launch file")
    _check_shown(grid, known)
    _check_published(grid, known)
    if grid.baseline or grid.shown == "table":
        compared = errors.lookup(f"factor of grid '{grid.name}'", grid.compared, known)
        levels = [level.name for level in compared.levels]
        if grid.baseline and grid.baseline not in levels:
            raise errors.InputError(
                f"grid '{grid.name}' compares with '{grid.baseline}', its baseline, which is none"
                f" of the levels of {grid.compared}: {', '.join(levels)}; name it among them"
            )


def _check_factor(factor: Factor, grid: Grid) -> None:
    _check_kind(f"levels of {factor.name}", factor.levels, Level)
    if not factor.levels:
        raise errors.InputError(f"factor '{factor.name}' of grid '{grid.name}' has no levels")
    _check_names(f"levels of {factor.name}", [level.name for level in factor.levels])
    for level in factor.levels:
        _check_texts(level, "argument", "config")
        _check_mapping(f"fields of level '{level.name}'", level.fields)
        is_place = is_number(level.value) and math.isfinite(level.value)
        if level.value is not None and not is_place:
            raise errors.InputError(
                f"level '{level.name}' of {factor.name} has the value {level.value!r}, but must"
                " have a finite number, or None for no place on an axis"
            )


def _check_fields(grid: Grid) -> None:
    """Raises an InputError where a factor would do nothing, so that runs differ in name alone."""
    setters = dict.fromkeys(grid.seeded, "seeded")
    for factor in grid.factors:
        for path in {path for level in factor.levels for path in level.fields}:
            if path == "method":
                raise errors.InputError(
                    f"factor '{factor.name}' of grid '{grid.name}' sets the field 'method', which"
                    " is only a name; use design.methods"
                )
            other = setters.setdefault(path, f"factor '{factor.name}'")
            if other != f"factor '{factor.name}'":
                raise errors.InputError(
                    f"grid '{grid.name}': both {other} and factor '{factor.name}' set the field"
                    f" '{path}'; leave one out"
                )


def _check_shown(grid: Grid, factors: Mapping[str, Factor]) -> None:
    errors.lookup("way to show a grid", grid.shown, dict.fromkeys(SHOWN))
    needed = {"map": 2, "curve": 1}.get(grid.shown, 0)
    valued = [
        name
        for name, factor in factors.items()
        if all(level.value is not None for level in factor.levels)
    ]
    if len(valued) < needed:
        raise errors.InputError(
            f"grid '{grid.name}' is shown as a {grid.shown}, which takes"
            f" {'two factors' if needed > 1 else 'a factor'} whose levels are numbers, but has"
            f" {', '.join(valued) or 'none'}; make it with design.field, or give each Level a value"
        )


def _check_published(grid: Grid, factors: Mapping[str, Factor]) -> None:
    _check_mapping(f"published figures of grid '{grid.name}'", grid.published)
    for levels, figure in grid.published.items():
        if not isinstance(levels, tuple) or len(levels) != len(factors):
            raise errors.InputError(
                f"a published figure of grid '{grid.name}' is of {levels!r}, but must be of a tuple"
                f" with a level of each of {', '.join(factors)}, as in (one,) or (one, another)"
            )
        if not is_number(figure) or not math.isfinite(figure):
            raise errors.InputError(
                f"the published figure of {levels} of grid '{grid.name}' is {figure!r}, but must be"
                " a number"
            )


def _check_texts(owner: Grid | Level, *names: str) -> None:
    for name in names:
        if not isinstance(value := getattr(owner, name), str):
            raise errors.InputError(
                f"{name} of {type(owner).__name__.lower()} '{owner.name}' is {value!r}, but must"
                " be a text"
            )


def _check_mapping(what: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise errors.InputError(f"{what} are {repr(value)[:100]}, but must be a dict")


def _check_kind(what: str, values: Any, kind: type) -> None:
    if not isinstance(values, tuple | list) or not all(isinstance(v, kind) for v in values):
        raise errors.InputError(
            f"{what} are {repr(values)[:100]}, but must be a tuple of {kind.__name__}, as in"
            " (one,) or (one, another)"
        )


def _check_word(what: str, name: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name):
        raise errors.InputError(f"the {what} is called {name!r}; give it one word, for folders")


def _check_names(kind: str, names: list[str]) -> None:
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name.isprintable():
            raise errors.InputError(f"{kind}: {name!r} must be a text of one line")
        if not name or name in names[:i]:
            raise errors.InputError(f"{kind}: '{name}' is empty or there twice; name each once")
