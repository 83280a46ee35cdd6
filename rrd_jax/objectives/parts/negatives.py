"""Examples to contrast an image with, drawn from the training split inside the compiled step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_UNKNOWN = -1


class Met(NamedTuple):
    """What a draw depends on; part of an objective's memory.

    Attributes:
      labels: [N] int32, of the examples that were seen in a batch; -1 of the rest.
      draws: [] int32, number of draws so far.
    """

    labels: jax.Array
    draws: jax.Array


def init(examples: int) -> Met:
    """No labels known, no draws."""
    return Met(jnp.full(examples, _UNKNOWN, jnp.int32), jnp.int32(0))


def meet(met: Met, index: jax.Array, labels: jax.Array) -> Met:
    """Adds the labels [B] of the examples `index` [B], and counts one more draw."""
    known = met.labels.at[index].set(labels.astype(jnp.int32))
    return Met(known, met.draws + 1)


def draw(key: jax.Array, met: Met, labels: jax.Array, count: int) -> jax.Array:
    """Examples of other classes, without replacement as long as there are enough.

    Each row is uniform over the ordered choices of `count` examples that are not known to be of the
    row's class; rows of one draw share a permutation. Examples that were not met yet, in the first
    epoch, count as of another class.

    Sorted by class, the examples of other classes are the positions outside one interval. A random
    permutation of all N positions, followed until it leads to one of the first M, is a random
    permutation of those M (cycle walking); each row begins at a random place in it.

    Args:
      key: a typed PRNG key; the draw is a function of it, `met` and `labels`.
      met: knows the rows' labels.
      labels: [B] int32.
      count: examples a row.

    Returns:
      [B, count] int32 in [0, N).
    """
    size = len(met.labels)
    walk_key, start_key = jax.random.split(jax.random.fold_in(key, met.draws))
    by_class = jnp.argsort(met.labels)
    sorted_labels = met.labels[by_class]
    first, last = (jnp.searchsorted(sorted_labels, labels, side=s) for s in ("left", "right"))
    same_class = (last - first)[:, None]
    rest = jnp.maximum(size - same_class, 1)
    walk = jax.random.permutation(walk_key, size)
    start = jax.random.randint(start_key, same_class.shape, 0, rest)
    places = _walked(walk, (start + jnp.arange(count)[None]) % rest, rest)
    places += jnp.where(places >= first[:, None], same_class, 0)
    return by_class[places].astype(jnp.int32)  # past the end, where all is of one class: the last


def _walked(walk: jax.Array, places: jax.Array, limit: jax.Array) -> jax.Array:
    """walk[places], and on from there while it is not below the limit."""
    return jax.lax.while_loop(
        lambda reached: jnp.any(reached >= limit),
        lambda reached: jnp.where(reached >= limit, walk[reached], reached),
        walk[places],
    )
