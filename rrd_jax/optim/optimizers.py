"""Optimizers: Optax transformations, from names and numbers."""

import functools
import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from rrd_jax import errors, imports

_PREFIX = "optimizer.options."
_FUNCTIONS = (types.FunctionType, functools.partial)
# Options of Optax's factories by their range.
_BELOW_1 = ("b1", "b2", "b3", "beta", "decay", "momentum", "adam_b1", "adam_b2")
_NOT_NEGATIVE = ("eps", "eps_root", "adam_eps_root", "ns_steps")
_LARGEST = 1e3  # beyond, nothing is learnt
# With 0 of these nothing is learnt; no option of Optax's is negative.
_ABOVE_0 = ("k", "step_size", "trust_coefficient", "clipping_threshold")
# Names that factories of Optax have for which parameters their weight decay leaves out.
_MASKS = ("mask", "weight_decay_mask")


def sgd(
    schedule: optax.Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """PyTorch's SGD: weight decay is added to the gradient, then momentum.

    Args:
      schedule: learning rate by step.
      momentum: in [0, 1).
      weight_decay: factor of the parameters that are added to their gradient, 0 or above.
      clip_norm: greatest length of the gradient of all parameters together, before weight decay
        is added, as in PyTorch's clip_grad_norm_; 0 for no clipping.
      nesterov: whether the step looks ahead along the momentum.

    Raises:
      InputError: a number is out of its range.
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
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """An optimizer by name.

    Weight decay is the factory's own where it has an argument for it, as adamw, lamb and lion do;
    elsewhere parameters are added to their gradient, as PyTorch's SGD, Adam and RMSprop do.

    Args:
      name: sgd, a factory of `optax` or `optax.contrib`, or an import path of one like these.
        rmsprop is PyTorch's: decay 0.99, eps outside the root, momentum before the learning rate.
      schedule: learning rate by step, which the factory gets as `learning_rate`.
      options: the factory's other arguments.
      momentum: of sgd, in [0, 1).
      nesterov: of sgd.
      weight_decay: 0 or above.
      decay_norm_and_bias: whether weights decay that are scales of norms or biases.
      clip_norm: as `sgd` has it.

    Raises:
      InputError: a number is out of its range, a name or an option unknown, or the optimizer needs
        more than gradients, parameters and the loss.
    """
    _check(momentum, weight_decay, clip_norm)
    _check_options(name, options or {})
    if nesterov and not momentum:
        raise errors.InputError(
            "optimizer.nesterov is True, but optimizer.momentum is 0: it looks ahead along none"
        )
    what = f"optimizer '{name}'"
    factory = _factory(name)
    arguments = imports.parameters(factory)
    own = [key for key in ("weight_decay", "weight_decay_rate") if key in arguments]
    masks = [key for key in _MASKS if key in arguments]
    mask = None if decay_norm_and_bias else _decays
    ours = {_rate_name(factory): schedule, **dict.fromkeys(own[:1], weight_decay)}
    ours |= dict.fromkeys(masks, mask)
    if name == "sgd":
        ours |= {"momentum": momentum, "nesterov": nesterov}
    if mask and own and not masks and weight_decay:
        raise errors.InputError(
            f"{what} cannot tell norms and biases from other weights; set"
            " optimizer.decay_norm_and_bias to True, or optimizer.weight_decay to 0"
        )
    transformation = _call(what, factory, options or {}, ours, schedule)
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    coupled = [] if own else [optax.add_decayed_weights(weight_decay, mask)]
    optimizer = optax.chain(*clip, *coupled, transformation)
    if name != "sgd":
        _check_usable(what, optimizer)
    return optimizer


def _check(momentum: float, weight_decay: float, clip_norm: float) -> None:
    bounds = (
        ("momentum", momentum, 1),
        ("weight_decay", weight_decay, 1e9),
        ("clip_norm", clip_norm, 1e9),
    )
    for name, value, end in bounds:
        if not 0 <= value < end:
            raise errors.InputError(f"optimizer.{name} is {value}, but must be in [0, {end:g})")


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raises an InputError for an option of Optax's, unchecked there, that is out of its range."""
    for option, value in options.items():
        if imports.is_path(name) or type(value) not in (int, float):
            continue  # of a user's, or refused for its type
        if option in _BELOW_1 and not 0 <= value < 1 - 2.0**-25:  # float32 knows none between
            raise errors.InputError(f"{_PREFIX}{option} is {value}, but must be in [0, 1)")
        if option in _NOT_NEGATIVE and not 0 <= value <= _LARGEST:
            above = value < math.inf and value > 0
            bounds = f"at most {_LARGEST:g}" if above else "0 or above"
            raise errors.InputError(f"{_PREFIX}{option} is {value}, but must be {bounds}")
        if value < 0 or (option in _ABOVE_0 and not value):
            above = "above 0" if option in _ABOVE_0 else "0 or above"
            raise errors.InputError(f"{_PREFIX}{option} is {value}, but must be {above}")
        if option == "ns_steps" and value > 100:  # each is compiled
            raise errors.InputError(f"{_PREFIX}{option} is {value}, but must be 100 at most")


def _decays(params: Any) -> Any:
    """Which parameters are neither scales of norms nor biases."""

    def decays(path, leaf):
        return leaf.ndim > 1 and str(getattr(path[-1], "key", "")) != "bias"

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
    """PyTorch's RMSprop: `optax.rmsprop`, with momentum before the learning rate."""
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
    """`optax.contrib.muon`, with one decoupled weight decay for all that it moves.

    Optax's own decays what is moved by Muon, matrices, by another number than the rest.
    """
    moves = contrib.muon(learning_rate, weight_decay=0.0, **options)
    decay = optax.add_decayed_weights(lambda step: -weight_decay * learning_rate(step), mask)
    return optax.chain(moves, decay) if weight_decay else moves


# Its options are Optax's; `mask` stands for the one of that name there.
_theirs = imports.parameters(contrib.muon) | imports.parameters(muon)
muon.__signature__ = inspect.Signature(
    [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in _theirs.items()
        if name not in ("options", "weight_decay_mask")
    ]
)


@functools.cache
def factories() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """The optimizers by name: Optax's public factories, and those of ours that differ."""
    public: dict[str, Callable[..., optax.GradientTransformation]] = {}
    for module in (contrib, optax):
        for name, factory in vars(module).items():
            if name.startswith("_") or not isinstance(factory, _FUNCTIONS):
                continue
            if "GradientTransformation" in str(inspect.signature(factory).return_annotation):
                public[name] = factory
    # Parts of rprop and cocob, with one more sign; and what learns nothing.
    for name in ("scale_by_rprop", "scale_by_cocob", "set_to_zero"):
        public.pop(name, None)
    return dict(sorted((public | {"rmsprop": rmsprop, "muon": muon}).items()))


def _factory(name: str) -> Callable[..., optax.GradientTransformation]:
    if not imports.is_path(name):
        if name in factories():
            return factories()[name]
        # Parts of optimizers can be named too, but are not worth listing.
        whole = {k: f for k, f in factories().items() if _rate_name(f) in imports.parameters(f)}
        return errors.lookup("optimizer.name", name, whole)
    factory = imports.load("optimizer", name)
    if not callable(factory) or "learning_rate" not in imports.parameters(factory):
        raise errors.InputError(
            f"optimizer '{name}' is no function with an argument 'learning_rate', which is given"
            " the schedule, step -> rate"
        )
    return factory


def _rate_name(factory: Callable) -> str:
    """The argument that a schedule is given as."""
    return "scaling" if factory is optax.polyak_sgd else "learning_rate"


def _call(
    what: str,
    factory: Callable,
    options: Mapping[str, Any],
    ours: Mapping[str, Any],
    schedule: optax.Schedule,
) -> optax.GradientTransformation:
    """What a factory returns, with updates that descend at the schedule's rate."""
    arguments = imports.parameters(factory)
    rate = arguments.get(_rate_name(factory))
    if rate is not None and _is_constant(rate):
        # It takes a number alone: Optax makes it anew in each step, with the step's rate.
        static = [name for name in arguments if name != "learning_rate"]
        injected = optax.inject_hyperparams(factory, static_args=static)
        factory = functools.wraps(factory)(injected)
    transformation = imports.call(what, factory, options, ours, prefix=_PREFIX)
    _check_made(what, transformation)
    if rate is None:  # a part of an optimizer, such as scale_by_adam
        return optax.chain(transformation, optax.scale_by_learning_rate(schedule))
    return transformation


def checked(
    made: Callable | optax.GradientTransformation, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """An optimizer that was made in Python.

    Args:
      made: a function of the schedule, such as `optax.sgd`, or a transformation.
      schedule: learning rate by step.

    Raises:
      InputError: it raises, is no transformation, or one that a train step cannot use.
    """
    what = f"optimizer {getattr(made, '__qualname__', type(made).__name__)}"
    if callable(made) and not hasattr(made, "update"):
        try:
            made = made(schedule)
        except imports.ERRORS as error:
            failed = "cannot be made as a function of the learning rate"
            raise imports.raised(what, failed, error) from error
    _check_made(what, made)
    _check_usable(what, optax.with_extra_args_support(made))
    return made


def _check_made(what: str, made: Any) -> None:
    """Raises an InputError for what is no transformation."""
    functions = getattr(made, "init", None), getattr(made, "update", None)
    if isinstance(made, type) or not all(map(callable, functions)):
        raise errors.InputError(
            f"{what} returns {type(made).__name__}, but must return an optax.GradientTransformation"
        )


def _is_constant(rate: inspect.Parameter) -> bool:
    """Whether a learning rate is annotated as a number, and so cannot be a schedule."""
    text = str(rate.annotation)
    return rate.annotation is not inspect.Parameter.empty and not (
        "Callable" in text or "Schedule" in text or rate.annotation is Any
    )


def _check_usable(what: str, optimizer: optax.GradientTransformation) -> None:
    """Raises an InputError for an optimizer that a train step cannot use."""
    shapes = {"kernel": (3, 3, 4, 4), "bias": (4,), "matrix": (4, 8)}
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}

    def update(params):
        state = optimizer.init(params)
        return state, *optimizer.update(params, state, params, value=jnp.float32(0))

    try:
        before, updates, after = jax.eval_shape(update, params)
        kinds = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (before, after)]
    except imports.ERRORS as error:
        failed = "cannot be used: it is given gradients, parameters and, as `value`, the loss"
        raise imports.raised(what, failed, error) from error
    forms = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (updates, params)]
    if forms[0] != forms[1]:
        raise errors.InputError(
            f"{what} gives updates of other shapes or types than the parameters'"
        )
    if kinds[0] != kinds[1]:
        raise errors.InputError(f"{what} changes the shapes or types of its own state")


def all_but(
    transformation: optax.GradientTransformation, frozen: Sequence[str]
) -> optax.GradientTransformation:
    """The same transformation, but for the parameters at and below a path, which never move.

    Args:
      transformation: of all other parameters.
      frozen: keys from the root of the parameters to what is frozen.
    """

    def labels(params):
        def label(path, leaf):
            del leaf
            keys = [entry.key for entry in path]
            return "stays" if keys[: len(frozen)] == list(frozen) else "moves"

        return jax.tree_util.tree_map_with_path(label, params)

    # Checkpoints hold these two labels.
    return optax.partition({"moves": transformation, "stays": optax.set_to_zero()}, labels)
