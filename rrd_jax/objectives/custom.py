"""Objectives that users bring by import path, such as my_losses:angular, as Records."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors, imports
from rrd_jax.objectives.base import Objective, Record, Stage, stateless

# What the trainer tells an objective whose signature asks for it; no config has these fields.
_FILLED_IN = ("examples", "batch_size")
# Fields that every objective has beside its options.
_FIELDS = ("weight", "warmup", "factory")


def record(path: str, name: str = "") -> Record:
    """The Record of what an import path leads to.

    That is one of these:

    - a factory: its arguments with defaults, or by keyword, are options; it returns an Objective.
    - a loss (student, teacher, batch) -> [B]: its further arguments are options. It carries
      nothing, and may read the teacher's maps, so that the teacher's embeddings are not cached for
      it; `stateless(loss, needs_maps=False)`, returned by a factory, says that it reads none.
    - an Objective, without options.
    - a Record.

    The trainer fills in options that are called examples, the number of training images, and
    batch_size, of what the loss sees at once.

    Args:
      path: MODULE:ATTRIBUTE.
      name: of the objective; "" for the attribute's, or the Record's own.

    Raises:
      InputError: the path leads to nothing or to something else, or an option is called as a field
        that every objective has. The record's factory raises it for a wrong option, an error in
        the user's factory, and where that gives no Objective.
    """
    what, known = f"objective '{path}'", imports.load("objective", path)
    if not isinstance(known, Record):
        known = Record(_as_factory(what, known), _summary(known), "-", verified=False)
        name = name or path.replace(":", ".").rpartition(".")[2]
    name = name or known.name
    inputs = _inputs(what, known.factory)
    options = imports.options(known.factory, inputs)
    _check_names(what, options)

    def factory(**given: Any) -> Objective:
        return _create(what, known.factory, inputs, given, f"objectives.{name}.")

    factory.__name__ = name
    factory.__signature__ = inspect.Signature(
        [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options.values()]
    )
    filled_in = {*known.filled_in, *_FILLED_IN} & options.keys()
    return known._replace(factory=factory, filled_in=tuple(sorted(filled_in)))


def _as_factory(what: str, known: Any) -> Callable:
    if isinstance(known, Objective):
        return lambda: known
    if not callable(known):
        raise errors.InputError(
            f"{what} is of type {type(known).__name__}, but must be a loss (student, teacher,"
            " batch) -> [B], or a factory of an Objective"
        )
    return known


def _summary(known: Any) -> str:
    """The first line of a function's or a class's docstring."""
    known = inspect.unwrap(known) if callable(known) else known
    documented = inspect.isfunction(known) or inspect.isclass(known)
    lines = (inspect.getdoc(known) or "").splitlines() if documented else []
    return lines[0] if lines else "-"


def _inputs(what: str, function: Callable) -> tuple[str, ...]:
    """What a loss calls student, teacher and batch; () for a factory.

    Raises:
      InputError: it is neither.
    """
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = tuple(
        name
        for name, parameter in imports.parameters(function).items()
        if parameter.kind in positional and parameter.default is inspect.Parameter.empty
        if name not in _FILLED_IN
    )
    if len(required) in (0, 3):
        return required
    raise errors.InputError(
        f"{what} takes ({', '.join(required)}) without defaults, but a loss takes (student,"
        " teacher, batch), and a factory has a default for each of its arguments"
    )


def _check_names(what: str, options: Iterable[str]) -> None:
    for name in _FIELDS:
        if name in options:
            raise errors.InputError(
                f"{what} has an option '{name}', but every objective has a field of that name;"
                " rename the option"
            )


def _create(
    what: str, function: Callable, inputs: tuple[str, ...], given: dict[str, Any], prefix: str
) -> Objective:
    """The objective of a user's function with these options."""
    if inputs:
        options = imports.check(what, function, given, inputs, prefix=prefix)
        return stateless(functools.partial(function, **options), needs_maps=True)
    objective = imports.call(what, function, given, {}, prefix=prefix)
    if not isinstance(objective, Objective):
        raise errors.InputError(
            f"{what} gives a {type(objective).__name__}, but must give an Objective of"
            " rrd_jax.objectives; stateless(loss) makes one of a loss"
        )
    _check_parts(what, objective)
    return objective._replace(init=functools.partial(_typed_state, objective.init))


def _check_parts(what: str, objective: Objective) -> None:
    """Raises an InputError for an Objective whose parts are not of their types."""
    stage = objective.stage
    if stage is not None and not isinstance(stage, Stage):
        raise errors.InputError(
            f"{what} has a stage of type {type(stage).__name__}, but must have a Stage or None"
        )
    required = {"init": objective.init, "loss": objective.loss}
    optional = {"predict": objective.predict, "taps": objective.taps}
    if stage is not None:
        required["stage.loss"] = stage.loss
        rate = {} if stage.learning_rate is None else {"stage.learning_rate": stage.learning_rate}
        numbers = {"stage.epochs": stage.epochs} | rate
        errors.check_positive(**{f"{name} of {what}": value for name, value in numbers.items()})
    for name, function in (required | optional).items():
        if not callable(function) and (name in required or function is not None):
            raise errors.InputError(
                f"{what} has {name} of type {type(function).__name__}, but it must be a function"
            )


def _typed_state(init: Callable, *arguments: Any) -> Any:
    """What `init` gives, as arrays: a Python number has a weak type, which no checkpoint keeps."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), init(*arguments))
