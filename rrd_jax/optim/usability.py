"""Checks, by updates of small parameters, that a train step can use an optimizer."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rrd_jax import errors

# The learning rate of the optimizers that `check_descends` receives.
RATE = 0.01
_SHAPES = {"kernel": (3, 3, 4, 4), "bias": (6,), "matrix": (4, 8)}
_UPDATES = 64
# A loss above the lower bounds of Polyak step sizes.
_LOSS = np.float32(1000)


def check(description: str, optimizer: optax.GradientTransformation) -> None:
    """Raises an InputError for an optimizer that a train step cannot use; only traces it."""
    params = _zeros()

    def update(params):
        state = optimizer.init(params)
        return state, *optimizer.update(params, state, params, value=jnp.float32(0))

    def forms(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)

    # In addition to gradients and parameters, the train step passes the loss as `value`.
    with errors.user_code("updating parameters with", description):
        before, updates, after = map(forms, jax.eval_shape(update, params))
    if updates != forms(params):
        raise errors.InputError(
            f"{description} returns updates of other shapes or types than the parameters; return an"
            " update of the same shape and type for each parameter"
        )
    moments = [leaf.dtype for leaf in jax.tree.leaves(before) if leaf.shape in _SHAPES.values()]
    if discrete := [dtype for dtype in moments if not jnp.issubdtype(dtype, jnp.inexact)]:
        raise errors.InputError(
            f"{description} stores a value for each parameter as {discrete[0]}, which rounds"
            " moments to whole numbers; use float32 or bfloat16, such as for mu_dtype"
        )
    if before != after:
        raise errors.InputError(
            f"{description} changes the shapes or types of its own state; keep the structure that"
            " init returns"
        )


def check_descends(
    description: str,
    optimizer: optax.GradientTransformation,
    options: Sequence[str],
    *,
    may_pause: bool = False,
) -> None:
    """Checks that an optimizer follows a constant gradient downwards.

    Args:
      description: the optimizer in messages.
      optimizer: an optimizer that `check` accepts, with a learning rate of RATE.
      options: its options in messages.
      may_pause: whether all updates may be 0, as in a warm-up.

    Raises:
      InputError: updates are not finite, all 0, or ascend, as with moments of an integer type.
    """
    gradients, optimizer = _gradients(), optax.with_extra_args_support(optimizer)

    def update(carry, _):
        params, state = carry
        updates, state = optimizer.update(gradients, state, params, value=_LOSS)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def slopes():
        """Returns the inner product of each parameter's change and its gradient."""
        params = _zeros()
        (moved, _), _ = jax.lax.scan(update, (params, optimizer.init(params)), length=_UPDATES)
        return jax.tree.map(lambda new, gradient: jnp.vdot(new, gradient), moved, gradients)

    with errors.user_code("updating parameters with", description):
        values = np.array(jax.tree.leaves(jax.device_get(slopes())))
    problem = ""
    if not np.isfinite(values).all():
        problem = "makes parameters that are not finite"
    elif not values.any() and not may_pause:
        problem = f"does not change parameters in {_UPDATES} updates"
    elif (values > 0).any():
        problem = "moves parameters along their gradient, not against it"
    if problem:
        cause = f" with {', '.join(options)}" if options else ""
        remedy = "change these options, or remove them" if options else "choose another optimizer"
        raise errors.InputError(
            f"{description}{cause} {problem}, as a trial of {_UPDATES} updates by a constant"
            f" gradient shows; {remedy}"
        )


def _zeros() -> dict[str, Any]:
    return {name: jnp.zeros(shape) for name, shape in _SHAPES.items()}


def _gradients() -> dict[str, Any]:
    """Returns gradients of magnitude 0.5 to 1.5, two of three below 0."""
    rng = np.random.default_rng(0)

    def draw(shape):
        signs = np.where(np.arange(np.prod(shape)) % 3, -1, 1).reshape(shape)
        return jnp.asarray(rng.uniform(0.5, 1.5, shape) * signs, jnp.float32)

    return {name: draw(shape) for name, shape in _SHAPES.items()}
