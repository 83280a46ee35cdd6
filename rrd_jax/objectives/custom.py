"""Custom objectives, by import path such as my_losses:angular."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors, imports
from rrd_jax.objectives.base import Objective, Record, stateless

# Options that the trainer sets; they are not config fields.
_FILLED_IN = ("examples", "batch_size")
# Config fields of every objective, in addition to its options.
_FIELDS = ("weight", "warmup", "factory")


def record(path: str, name: str = "") -> Record:
    """Returns the Record of a custom objective.

    The import path leads to one of these:

    - a factory that returns an Objective. Keyword arguments, and arguments with a default, are
      options.
    - a loss (student, teacher, batch) -> [B], without state. Further arguments are options. The
      loss may read the teacher's maps, so the teacher's embeddings are not cached; to allow
      caching, use a factory that returns `stateless(loss, needs_maps=False)`.
    - an Objective, without options.
    - a Record.

    The trainer sets the options `examples`, the number of training images, and `batch_size`, the
    size of the batch that the loss receives.

    Args:
      path: MODULE:ATTRIBUTE.
      name: name of the objective; "" for the name of the attribute or of the Record.

    Raises:
      InputError: the path cannot be resolved or leads to another type, or an option has the name
        of a field that every objective has. The record's factory raises InputError for an invalid
        option, or if the custom factory does not return an Objective.
      UserCodeError: the module raises an exception; the record's factory raises UserCodeError if
        the custom factory raises an exception.
    """
    subject, value = f"objective '{path}'", imports.load("objective", path)
    if not isinstance(value, Record):
        objective = value
        factory = (lambda: objective) if isinstance(objective, Objective) else value
        if not callable(factory):
            raise errors.InputError(
                f"{subject} is of type {type(value).__name__}, but must be a loss (student,"
                " teacher, batch) -> [B], or a factory of an Objective"
            )
        value = Record(factory, _summary(value), "-", verified=False)
        name = name or path.replace(":", ".").rpartition(".")[2]
    name = name or value.name
    inputs = _inputs(subject, value.factory)
    options = imports.options(value.factory, inputs)
    for field in _FIELDS:
        if field in options:
            raise errors.InputError(
                f"{subject} has an option '{field}', but every objective has a field of that name;"
                " rename the option"
            )

    def factory(**options: Any) -> Objective:
        return _create(subject, value.factory, inputs, options, f"objectives.{name}.")

    factory.__name__ = name
    factory.__signature__ = inspect.Signature(
        [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options.values()]
    )
    filled_in = {*value.filled_in, *_FILLED_IN} & options.keys()
    return value._replace(factory=factory, filled_in=tuple(sorted(filled_in)))


def _summary(value: Any) -> str:
    """Returns the first line of a function's or a class's docstring."""
    value = inspect.unwrap(value) if callable(value) else value
    documented = inspect.isfunction(value) or inspect.isclass(value)
    lines = (inspect.getdoc(value) or "").splitlines() if documented else []
    return lines[0] if lines else "-"


def _inputs(subject: str, function: Callable) -> tuple[str, ...]:
    """Returns the names of a loss's arguments student, teacher and batch; () for a factory.

    Raises:
      InputError: the function is neither a loss nor a factory.
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
        f"{subject} takes ({', '.join(required)}) without defaults, but a loss takes (student,"
        " teacher, batch), and a factory has a default for each of its arguments"
    )


def _create(
    subject: str, function: Callable, inputs: tuple[str, ...], options: dict[str, Any], prefix: str
) -> Objective:
    """Creates the objective of a custom loss or factory with the options."""
    if inputs:
        options = imports.check(subject, function, options, inputs, prefix=prefix)
        return stateless(functools.partial(function, **options), needs_maps=True)
    objective = imports.call(subject, function, options, {}, prefix=prefix)
    if not isinstance(objective, Objective):
        raise errors.InputError(
            f"{subject} returns a {type(objective).__name__}, but must return an Objective of"
            " rrd_jax.objectives; wrap a loss as stateless(loss)"
        )
    if stage := objective.stage:
        # A stage of 0 epochs would be skipped silently.
        with errors.user_code("reading the stage of", subject):
            rate = 1.0 if stage.learning_rate is None else stage.learning_rate
            numbers = {"epochs": stage.epochs, "learning_rate": rate}
        errors.check_positive(**{f"stage.{name} of {subject}": n for name, n in numbers.items()})
    return objective._replace(init=functools.partial(_typed_state, objective.init))


def _typed_state(init: Callable, *arguments: Any) -> Any:
    """Returns the state of `init` as arrays, since checkpoints drop the weak type of numbers."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), init(*arguments))
