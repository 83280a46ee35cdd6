"""Memories of past embeddings: arrays in the train state and pure functions over them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax import errors


class Queue(NamedTuple):
    """First in, first out.

    Attributes:
      rows: [K, D] float32, earlier embeddings in a ring.
      cursor: [] int32 in [0, K), where the next row goes: the oldest one.
    """

    rows: jax.Array
    cursor: jax.Array


def init_queue(key: jax.Array, size: int, dim: int, *, initial: str = "unit") -> Queue:
    """A queue of random directions, to be replaced by real embeddings.

    Args:
      key: a typed PRNG key.
      size: number of rows K.
      dim: length of a row D.
      initial: "unit" for rows of length 1, like the embeddings that will replace them;
        "reference" for columns of length 1 (so rows of about sqrt(D / K)), as in the authors'
        PyTorch code.
    """
    axes = {"unit": 1, "reference": 0}
    axis = errors.lookup("initial queue", initial, axes)
    errors.check_positive(queue_size=size, dim=dim)
    rows = jax.random.normal(key, (size, dim))
    return Queue(rows / jnp.linalg.norm(rows, axis=axis, keepdims=True), jnp.int32(0))


def push(queue: Queue, rows: jax.Array) -> Queue:
    """Overwrites the oldest rows, wrapping at the end; nothing flows back through it.

    Args:
      queue: the queue, of any size K and any cursor.
      rows: [B, D], oldest first, any B. When B > K only the newest K remain.

    Returns:
      The queue with its cursor moved on by B modulo K.
    """
    size, dim = queue.rows.shape
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise errors.InputError(f"rows of shape {rows.shape} pushed to a queue of [{size}, {dim}]")
    kept = min(len(rows), size)
    dropped = len(rows) - kept
    places = (queue.cursor + dropped + jnp.arange(kept)) % size
    kept_rows = jax.lax.stop_gradient(rows[dropped:]).astype(queue.rows.dtype)
    # Distinct because kept <= size: the compiler may write them in any order.
    return Queue(
        queue.rows.at[places].set(kept_rows, unique_indices=True),
        ((queue.cursor + len(rows)) % size).astype(queue.cursor.dtype),
    )
