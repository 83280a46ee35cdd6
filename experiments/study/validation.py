"""Checks of a study before any run starts."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from experiments import measures
from experiments.study.design import DISPLAYS, Factor, Grid, Level, Study
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
        raise errors.InputError(f"study '{study.name}' has no grids; add a Grid")
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
        raise errors.InputError(
            f"grid '{grid.name}' has seeds {grid.seeds}; set one or more different seeds"
        )
    _check_names(f"factors of grid '{grid.name}'", [factor.name for factor in grid.factors])
    for factor in grid.factors:
        _check_factor(factor, grid)
    _check_fields(grid)
    factors = {factor.name: factor for factor in grid.factors}
    if grid.follows:
        grids = {other.name: other for other in study.grids}
        previous = errors.lookup("grid to follow", grid.follows, grids)
        if previous.follows or list(grids).index(previous.name) > list(grids).index(grid.name):
            raise errors.InputError(
                f"grid '{grid.name}' follows '{previous.name}', which must come first and must not"
                " follow another grid; change the order"
            )
        factors = {factor.name: factor for factor in previous.factors} | factors
    if grid.selection:
        _check_selection(grid, study)
    _check_display(grid, factors)
    if grid.baseline or grid.display == "table":
        compared = errors.lookup(f"factor of grid '{grid.name}'", grid.compared, factors)
        levels = [level.name for level in compared.levels]
        if grid.baseline and grid.baseline not in levels:
            raise errors.InputError(
                f"grid '{grid.name}' has the baseline '{grid.baseline}', which is not a level of"
                f" {grid.compared}; known: {', '.join(levels)}; add the level, or change the"
                " baseline"
            )


def _check_selection(grid: Grid, study: Study) -> None:
    """Raises an InputError if the earlier grid cannot select levels of this grid."""
    names = [other.name for other in study.grids]
    earlier = {other.name: other for other in study.grids[: names.index(grid.name)]}
    previous = errors.lookup(
        f"grid to select from, before '{grid.name}'", grid.selection.grid, earlier
    )
    if grid.selection.count < 1:
        raise errors.InputError(
            f"grid '{grid.name}' selects {grid.selection.count} levels; select at least 1"
        )
    for factor in (grid.selection.factor, grid.compared):
        for other in (previous, grid):
            levels = [level.name for f in other.factors if f.name == factor for level in f.levels]
            if not levels:
                raise errors.InputError(
                    f"grid '{grid.name}' selects levels of '{grid.selection.factor}' for each"
                    f" '{grid.compared}', but grid '{other.name}' has no factor '{factor}'; add it"
                )


def _check_factor(factor: Factor, grid: Grid) -> None:
    for level in factor.levels:
        for option, scale in getattr(level, "scales", {}).items():
            if not 0 < scale < math.inf:
                raise errors.InputError(
                    f"level '{level.name}' of factor '{factor.name}' scales '{option}' by"
                    f" {scale!r}, but must scale by a positive number"
                )
    _check_tuple(f"levels of {factor.name}", factor.levels, Level)
    if not factor.levels:
        raise errors.InputError(
            f"factor '{factor.name}' of grid '{grid.name}' has no levels; add one"
        )
    _check_names(f"levels of {factor.name}", [level.name for level in factor.levels])


def _check_fields(grid: Grid) -> None:
    """Raises an InputError for a factor without effect, whose runs would differ only in name."""
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
                    f" '{path}'; omit one"
                )


def _check_display(grid: Grid, factors: Mapping[str, Factor]) -> None:
    errors.lookup("display", grid.display, dict.fromkeys(DISPLAYS))
    needed = {"map": 2, "curve": 1}.get(grid.display, 0)
    valued = [
        name
        for name, factor in factors.items()
        if all(level.value is not None for level in factor.levels)
    ]
    if len(valued) < needed:
        raise errors.InputError(
            f"grid '{grid.name}' has display '{grid.display}', which needs"
            f" {'two numeric factors' if needed > 1 else 'a numeric factor'}, but has"
            f" {', '.join(valued) or 'none'}; use design.field, or set the value of each Level"
        )


def _check_tuple(name: str, values: Any, kind: type) -> None:
    if not isinstance(values, tuple | list) or not all(isinstance(v, kind) for v in values):
        raise errors.InputError(
            f"{name} are {repr(values)[:100]}, but must be a tuple of {kind.__name__}, for example"
            " (a,) or (a, b)"
        )


def _check_word(kind: str, name: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name):
        raise errors.InputError(
            f"{kind} name {name!r} is invalid; use one word, which also names folders"
        )


def _check_names(kind: str, names: Iterable[str]) -> None:
    previous: list[str] = []
    for name in names:
        if not isinstance(name, str) or not name.isprintable():
            raise errors.InputError(f"{kind}: {name!r} must be text in one line")
        if not name or name in previous:
            raise errors.InputError(f"{kind}: '{name}' is empty or used twice; use each name once")
        previous.append(name)
