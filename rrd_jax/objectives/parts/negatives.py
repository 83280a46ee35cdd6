"""Negative examples, drawn from the training split inside the compiled step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_UNKNOWN = -1


class DrawState(NamedTuple):
    """The state that a draw depends on, part of an objective's memory.

    Attributes:
      labels: [N] int32, labels of the examples in past batches; -1 for all other examples.
      draws: [] int32, number of draws so far.
    """

    labels: jax.Array
    draws: jax.Array


def init(examples: int) -> DrawState:
    """Returns a state without labels and draws."""
    return DrawState(jnp.full(examples, _UNKNOWN, jnp.int32), jnp.int32(0))


def add_labels(state: DrawState, index: jax.Array, labels: jax.Array) -> DrawState:
    """Adds the labels [B] of the examples `index` [B], and counts one more draw."""
    updated = state.labels.at[index].set(labels.astype(jnp.int32))
    return DrawState(updated, state.draws + 1)


def draw(key: jax.Array, state: DrawState, labels: jax.Array, count: int) -> jax.Array:
    """Draws examples of other classes, without replacement while there are enough.

    Each row is uniform over the ordered choices of `count` examples with another or no recorded
    label; the rows of one draw share a permutation. Examples without a recorded label, in the first
    epoch, count as examples of another class.

    Sorted by class, the examples of other classes are the positions outside one interval. A random
    permutation of all N positions, applied until the result is among the first M, is a random
    permutation of these M (cycle walking); each row starts at a random position.

    Args:
      key: a typed PRNG key; the draw is a function of `key`, `state` and `labels`.
      state: recorded labels, including those of the rows, and the number of draws.
      labels: [B] int32, class of each row.
      count: number of examples per row.

    Returns:
      [B, count] int32 in [0, N).
    """
    size = len(state.labels)
    walk_key, start_key = jax.random.split(jax.random.fold_in(key, state.draws))
    by_class = jnp.argsort(state.labels)
    sorted_labels = state.labels[by_class]
    first, last = (jnp.searchsorted(sorted_labels, labels, side=s) for s in ("left", "right"))
    same_class = (last - first)[:, None]
    rest = jnp.maximum(size - same_class, 1)
    walk = jax.random.permutation(walk_key, size)
    start = jax.random.randint(start_key, same_class.shape, 0, rest)
    positions = _cycle_walk(walk, (start + jnp.arange(count)[None]) % rest, rest)
    positions += jnp.where(positions >= first[:, None], same_class, 0)
    # If all examples belong to one class, positions are out of bounds, and indexing clamps them to
    # the last example.
    return by_class[positions].astype(jnp.int32)


def _cycle_walk(walk: jax.Array, positions: jax.Array, limit: jax.Array) -> jax.Array:
    """Applies the permutation `walk` to positions until all results are below the limit."""
    return jax.lax.while_loop(
        lambda reached: jnp.any(reached >= limit),
        lambda reached: jnp.where(reached >= limit, walk[reached], reached),
        walk[positions],
    )
