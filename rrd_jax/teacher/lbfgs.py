"""Full-batch minimization by L-BFGS in compiled code."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def minimize(
    loss: Callable[[Any], jax.Array], start: Any, *, tolerance: float, iterations: int
) -> tuple[Any, jax.Array]:
    """Minimizes a convex function; call it inside `jax.jit`.

    Args:
      loss: function of the parameters.
      start: a tree of float32 arrays, the first parameters.
      tolerance: largest entry of the gradient at which the search ends.
      iterations: maximum number of iterations.

    Returns:
      (parameters, number of iterations [] int32).
    """
    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        parameters, state, _, i = carry
        value, gradient = value_and_grad(parameters, state=state)
        updates, state = optimizer.update(
            gradient, state, parameters, value=value, grad=gradient, value_fn=loss
        )
        parameters = optax.apply_updates(parameters, updates)
        slope = optax.tree.get(state, "grad")
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(slope)]))
        return parameters, state, largest, i + 1

    carry = start, optimizer.init(start), jnp.float32(jnp.inf), jnp.int32(0)
    parameters, _, _, count = jax.lax.while_loop(
        lambda carry: (carry[2] > tolerance) & (carry[3] < iterations), step, carry
    )
    return parameters, count
