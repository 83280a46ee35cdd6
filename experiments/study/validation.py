"""Checks of a study, before any run starts."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from experiments import measures
from experiments.study.design import SHOWN, Factor, Grid, Level, Study
from rrd_jax import errors


def check(study: Study) -> None:
    """Raises an InputError for a study that cannot be run or compared."""
    if not isinstance(study, Study):
        raise errors.InputError(
            f"get_study returned {type(study).__name__}, but must return a Study of"
            " experiments.study.design"
        )
    _check_word("study", study.name)
    _check_tuple("grids", study.grids, Grid)
    if not study.grids:
        raise errors.InputError(f"study '{study.name}' has no grids")
    _check_names("grids", [grid.name for grid in study.grids])
    for grid in study.grids:
        _check_grid(grid, study)


def _check_grid(grid: Grid, study: Study) -> None:
    _check_word("grid", grid.name)
    _check_tuple(f"factors of grid '{grid.name}'", grid.factors, Factor)
    _check_tuple(f"seeds of grid '{grid.name}'", grid.seeds, int)
    for name in grid.measures:
        errors.lookup("measure", name, measures.MEASURES)
    if not grid.seeds or len(set(grid.seeds)) < len(grid.seeds):
        raise errors.InputError(f"grid '{grid.name}' has seeds {grid.seeds}: give some, each once")
    _check_names(f"factors of grid '{grid.name}'", [factor.name for factor in grid.factors])
    for factor in grid.factors:
        _check_factor(factor, grid)
    _check_fields(grid)
    factors = {factor.name: factor for factor in grid.factors}
    if grid.follows:
        grids = {other.name: other for other in study.grids}
        before = errors.lookup("grid to follow", grid.follows, grids)
        if before.follows or list(grids).index(before.name) > list(grids).index(grid.name):
            raise errors.InputError(
                f"grid '{grid.name}' follows '{before.name}', which must stand before it and follow"
                " none"
            )
        factors = {factor.name: factor for factor in before.factors} | factors
    _check_shown(grid, factors)
    if grid.baseline or grid.shown == "table":
        compared = errors.lookup(f"factor of grid '{grid.name}'", grid.compared, factors)
        levels = [level.name for level in compared.levels]
        if grid.baseline and grid.baseline not in levels:
            raise errors.InputError(
                f"grid '{grid.name}' compares with '{grid.baseline}', its baseline, which is none"
                f" of the levels of {grid.compared}: {', '.join(levels)}; name it among them"
            )


def _check_factor(factor: Factor, grid: Grid) -> None:
    _check_tuple(f"levels of {factor.name}", factor.levels, Level)
    if not factor.levels:
        raise errors.InputError(f"factor '{factor.name}' of grid '{grid.name}' has no levels")
    _check_names(f"levels of {factor.name}", [level.name for level in factor.levels])


def _check_fields(grid: Grid) -> None:
    """Raises an InputError for a factor without effect, whose runs would differ in name alone."""
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


def _check_tuple(name: str, values: Any, kind: type) -> None:
    if not isinstance(values, tuple | list) or not all(isinstance(v, kind) for v in values):
        raise errors.InputError(
            f"{name} are {repr(values)[:100]}, but must be a tuple of {kind.__name__}, as in"
            " (one,) or (one, another)"
        )


def _check_word(kind: str, name: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name):
        raise errors.InputError(f"the {kind} is called {name!r}; give it one word, for folders")


def _check_names(kind: str, names: Iterable[str]) -> None:
    known: list[str] = []
    for name in names:
        if not isinstance(name, str) or not name.isprintable():
            raise errors.InputError(f"{kind}: {name!r} must be a text of one line")
        if not name or name in known:
            raise errors.InputError(f"{kind}: '{name}' is empty or there twice; name each once")
        known.append(name)
