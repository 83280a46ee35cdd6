"""Builds optimizers, which are Optax transformations, from names and numbers."""

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from optax import contrib

from rrd_jax import errors, imports
from rrd_jax.optim import usability

_PREFIX = "optimizer.options."
# Options of Optax's factories, grouped by range. Optax does not check the ranges.
_BELOW_1 = ("b1", "b2", "b3", "beta", "decay", "momentum", "adam_b1", "adam_b2")
_AT_LEAST_0 = ("eps", "eps_root", "adam_eps_root", "ns_steps")
_ABOVE_0 = ("k", "step_size", "trust_coefficient", "clipping_threshold")
_LARGEST_EPS, _MOST_NS_STEPS = 1e3, 100
# Arguments of Optax's factories for weight decay, and for the parameters that it applies to.
_DECAYS = ("weight_decay", "weight_decay_rate")
_MASKS = ("mask", "weight_decay_mask")
# Parameters of transformers without weight decay, as in timm.
_TOKENS = (
    *("cls_token", "dist_token", "reg_token", "pos_embed"),
    *("relative_position_bias_table", "attention_biases"),
    # The MLP of relative positions, and the scales of cosine attention.
    *("cpb_mlp_0", "cpb_mlp_2", "logit_scale"),
)
_FUNCTIONS = (types.FunctionType, functools.partial)
# The first two return updates with the opposite sign of Optax's other `scale_by_` factories.
_REFUSED = ("scale_by_rprop", "scale_by_cocob", "set_to_zero")
_NUMBERS = (float, int, complex, bool, jax.Array, np.ndarray, np.bool_, np.number)


def sgd(
    schedule: optax.Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """Builds PyTorch's SGD: weight decay is added to the gradient, then momentum applies.

    Args:
      schedule: learning rate by step.
      momentum: momentum, in [0, 1).
      weight_decay: factor by which parameters are added to their gradient, at least 0.
      clip_norm: largest global norm of the gradient, before weight decay is added, as in PyTorch's
        clip_grad_norm_; 0 for no clipping.
      nesterov: whether to use Nesterov momentum.

    Raises:
      InputError: a number is out of range.
    """
    return create(
        "sgd",
        schedule,
        momentum=momentum,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        nesterov=nesterov,
    )


def create(
    name: str,
    schedule: optax.Schedule,
    *,
    options: Mapping[str, Any] | None = None,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = True,
    decay_tokens: bool = False,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Builds an optimizer by name.

    Weight decay is passed to factories that have an argument for it, such as adamw, lamb and lion.
    Otherwise, parameters are added to their gradient, as PyTorch's SGD, Adam and RMSprop do.

    Args:
      name: sgd, a factory of `optax` or `optax.contrib`, or the import path of a similar factory.
        rmsprop is PyTorch's: decay 0.99, eps outside the root, momentum before the learning rate.
      schedule: learning rate by step, passed to the factory as `learning_rate`.
      options: the factory's other arguments.
      momentum: momentum of sgd, in [0, 1).
      nesterov: whether sgd uses Nesterov momentum.
      weight_decay: factor of the weight decay, at least 0.
      decay_norm_and_bias: whether weight decay applies to the scales of norms, to biases, to class
        and register tokens, to position embeddings and to biases of relative positions.
      decay_tokens: whether weight decay applies to tokens, position embeddings and biases of
        relative positions, even without decay_norm_and_bias.
      clip_norm: see `sgd`.

    Raises:
      InputError: a number is out of range, a name or an option is unknown, or the optimizer needs
        more than gradients, parameters and the loss.
    """
    options = options or {}
    _check_numbers(momentum=momentum, weight_decay=weight_decay, clip_norm=clip_norm)
    if not imports.is_path(name):
        _check_options(options)
    if nesterov and not momentum:
        raise errors.InputError(
            "optimizer.nesterov is True, but optimizer.momentum is 0; set a momentum"
        )
    factory, description = _factory(name), f"optimizer '{name}'"
    parameters = imports.parameters(factory)
    decays = [key for key in _DECAYS if key in parameters]
    masks = [key for key in _MASKS if key in parameters]
    excluded = {"bias"} if decay_tokens else {"bias", *_TOKENS}
    mask = None if decay_norm_and_bias else functools.partial(_decay_mask, excluded)
    if mask and decays and not masks and weight_decay:
        raise errors.InputError(
            f"optimizer.decay_norm_and_bias is False, but {description} decays all parameters; set"
            " optimizer.decay_norm_and_bias to True, or optimizer.weight_decay to 0"
        )
    arguments = {_rate_name(factory): schedule}
    arguments |= dict.fromkeys(decays[:1], weight_decay) | dict.fromkeys(masks, mask)
    if name == "sgd":
        arguments |= {"momentum": momentum, "nesterov": nesterov}
    optimizer = optax.chain(
        *([optax.clip_by_global_norm(clip_norm)] if clip_norm else []),
        *([] if decays else [optax.add_decayed_weights(weight_decay, mask)]),
        _call(description, factory, options, arguments, schedule),
    )
    if name != "sgd" or options:
        usability.check(description, optimizer)
        try:
            _check_descends(name, tuple(options.items()))
        except TypeError:
            # A value of the options is not hashable.
            _check_descends.__wrapped__(name, tuple(options.items()))
    return optimizer


@functools.lru_cache(32)
def _check_descends(name: str, options: tuple[tuple[str, Any], ...]) -> None:
    """Tries an optimizer with a constant rate and without weight decay; see `usability`."""
    factory, description = _factory(name), f"optimizer '{name}'"
    rate = optax.constant_schedule(usability.RATE)
    fixed = dict.fromkeys([key for key in _DECAYS if key in imports.parameters(factory)], 0.0)
    arguments = {_rate_name(factory): rate, **fixed}
    optimizer = _call(description, factory, dict(options), arguments, rate)
    texts = [f"{_PREFIX}{option}={value}" for option, value in options]
    usability.check_descends(description, optimizer, texts, may_pause=imports.is_path(name))


def _check_numbers(**numbers: float) -> None:
    for name, value in numbers.items():
        end = 1 if name == "momentum" else 1e9
        if not 0 <= value < end:
            raise errors.InputError(f"optimizer.{name} is {value}, but must be in [0, {end:g})")


def _check_options(options: Mapping[str, Any]) -> None:
    """Raises an InputError for an option of an Optax factory that is out of range."""
    for option, value in options.items():
        if type(value) not in (int, float):
            # `imports.call` checks types.
            continue
        allowed = ""
        # float32 rounds numbers above 1 - 2**-25 to 1.
        if option in _BELOW_1 and not 0 <= value < 1 - 2.0**-25:
            allowed = "in [0, 1)"
        # Every Newton-Schulz step is unrolled in the compiled program.
        elif option == "ns_steps" and value > _MOST_NS_STEPS:
            allowed = f"at most {_MOST_NS_STEPS}"
        elif option in _AT_LEAST_0 and _LARGEST_EPS < value < math.inf:
            allowed = f"at most {_LARGEST_EPS:g}"
        elif option in _ABOVE_0 and value <= 0:
            allowed = "above 0"
        elif value < 0 or (option in _AT_LEAST_0 and not value < math.inf):
            allowed = "at least 0"
        if allowed:
            raise errors.InputError(f"{_PREFIX}{option} is {value}, but must be {allowed}")


def _decay_mask(excluded: Collection[str], params: Any) -> Any:
    """Returns a tree of booleans, False for the scales of norms and for excluded parameters.

    Args:
      excluded: names of parameters, or of modules that contain them.
      params: the parameters.
    """

    def decays(path, leaf):
        names = {str(getattr(part, "key", "")) for part in path[-2:]}
        return leaf.ndim > 1 and names.isdisjoint(excluded)

    return jax.tree_util.tree_map_with_path(decays, params)


def rmsprop(
    learning_rate: optax.Schedule,
    decay: float = 0.99,
    eps: float = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = False,
    centered: bool = False,
    momentum: float = 0.0,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """Builds PyTorch's RMSprop: `optax.rmsprop` with momentum before the learning rate."""
    scale = optax.scale_by_stddev if centered else optax.scale_by_rms
    return optax.chain(
        scale(decay=decay, eps=eps, initial_scale=initial_scale, eps_in_sqrt=eps_in_sqrt),
        optax.trace(momentum, nesterov) if momentum else optax.identity(),
        optax.scale_by_learning_rate(learning_rate),
    )


def muon(
    learning_rate: optax.Schedule,
    weight_decay: float = 0.0,
    mask: Callable[[Any], Any] | None = None,
    **options: Any,
) -> optax.GradientTransformation:
    """Builds `optax.contrib.muon` with one decoupled weight decay for all parameters.

    Optax's factory decays the matrices that Muon updates by a different factor than the rest.
    """
    updates = contrib.muon(learning_rate, weight_decay=0.0, **options)
    decay = optax.add_decayed_weights(lambda step: -weight_decay * learning_rate(step), mask)
    return optax.chain(updates, decay) if weight_decay else updates


# Config options are checked against this signature: Optax's, with `mask` for weight_decay_mask.
_signature = imports.parameters(contrib.muon) | imports.parameters(muon)
muon.__signature__ = inspect.Signature(
    [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in _signature.items()
        if name not in ("options", "weight_decay_mask")
    ]
)


_REPLACEMENTS = {"rmsprop": rmsprop, "muon": muon}


def _factory(name: str) -> Callable[..., optax.GradientTransformation]:
    """Returns the factory of this name, or raises an InputError that lists optimizers."""
    if imports.is_path(name):
        factory = imports.load("optimizer", name)
        if not callable(factory) or "learning_rate" not in imports.parameters(factory):
            raise errors.InputError(
                f"optimizer '{name}' must be a function with an argument 'learning_rate', which"
                " receives the schedule, step -> rate"
            )
        return factory
    optax_factory = getattr(optax, str(name), getattr(contrib, str(name), None))
    factory = _REPLACEMENTS.get(name, optax_factory)
    if isinstance(factory, _FUNCTIONS) and name not in _REFUSED and not name.startswith("_"):
        return factory
    return errors.lookup("optimizer.name", name, _optimizers())


def _optimizers() -> dict[str, Any]:
    """Returns the public functions of Optax that take a learning rate, for error messages."""
    return {
        name: function
        for name, function in sorted((vars(contrib) | vars(optax)).items())
        if isinstance(function, _FUNCTIONS) and not name.startswith(("_", "scale_by_"))
        if _rate_name(function) in imports.parameters(function)
    }


def _rate_name(factory: Callable) -> str:
    """Returns the name of the factory's argument for the schedule."""
    return "scaling" if factory is optax.polyak_sgd else "learning_rate"


def _call(
    description: str,
    factory: Callable,
    options: Mapping[str, Any],
    arguments: Mapping[str, Any],
    schedule: optax.Schedule,
) -> optax.GradientTransformation:
    """Calls a factory so that its updates descend at the schedule's rate."""
    parameters = imports.parameters(factory)
    rate = parameters.get(_rate_name(factory))
    if rate is not None and _is_number(rate.annotation):
        # The factory accepts no schedule, so Optax calls it in each step with the current rate.
        static = [name for name in parameters if name != "learning_rate"]
        injected = optax.inject_hyperparams(factory, static_args=static)
        factory = functools.wraps(factory)(injected)
    transformation = imports.call(description, factory, options, arguments, prefix=_PREFIX)
    _check_transformation(description, transformation)
    if rate is None:
        # Transformations such as scale_by_adam do not apply a learning rate.
        return optax.chain(transformation, optax.scale_by_learning_rate(schedule))
    return transformation


def _is_number(annotation: Any) -> bool:
    """Returns True if an annotation allows only numbers, so that a schedule is invalid."""
    members = typing.get_args(annotation) or (annotation,)
    return all(member in _NUMBERS or member in ("float", "int") for member in members)


def checked(
    optimizer: Callable | optax.GradientTransformation, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Returns an optimizer that was built in Python, after checking that a train step can use it.

    Args:
      optimizer: a function of the schedule, such as `optax.sgd`, or a transformation.
      schedule: learning rate by step.

    Raises:
      UserCodeError: the function or the optimizer raises an exception.
      InputError: a train step cannot use the optimizer.
    """
    description = f"optimizer {getattr(optimizer, '__qualname__', type(optimizer).__name__)}"
    if callable(optimizer) and not hasattr(optimizer, "update"):
        with errors.user_code("calling with the learning rate", description):
            optimizer = optimizer(schedule)
    _check_transformation(description, optimizer)
    usability.check(description, optax.with_extra_args_support(optimizer))
    return optimizer


def _check_transformation(description: str, transformation: Any) -> None:
    """Raises an InputError for anything but a gradient transformation."""
    functions = getattr(transformation, "init", None), getattr(transformation, "update", None)
    if isinstance(transformation, type) or not all(map(callable, functions)):
        raise errors.InputError(
            f"{description} returns {type(transformation).__name__}, but must return an"
            " optax.GradientTransformation"
        )


def all_but(
    transformation: optax.GradientTransformation, frozen: Sequence[str]
) -> optax.GradientTransformation:
    """Applies a transformation to all parameters except a frozen subtree.

    Args:
      transformation: the transformation of the parameters that are not frozen.
      frozen: path of the frozen subtree, as keys from the root of the parameters.
    """

    def label(path, leaf):
        del leaf
        keys = [entry.key for entry in path]
        return "stays" if keys[: len(frozen)] == list(frozen) else "moves"

    # The labels must not change, because checkpoints contain them.
    return optax.partition(
        {"moves": transformation, "stays": optax.set_to_zero()},
        lambda params: jax.tree_util.tree_map_with_path(label, params),
    )
