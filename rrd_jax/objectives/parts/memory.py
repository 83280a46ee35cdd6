"""Memories of past embeddings: arrays in the train state and pure functions over them."""

import math
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.parts import checks
from rrd_jax.settings.kinds import is_auto

# Options of objectives that set the number of rows of a memory.
SIZES = ("queue_size", "negatives", "patch_queue_size")
# Initializations of a queue, and the axis along which vectors have length 1, or None for rows of 0;
# see `init_queue`.
INITIAL = {"unit": 1, "reference": 0, "zeros": None}


class Queue(NamedTuple):
    """A first-in, first-out queue of embeddings.

    Attributes:
      rows: [K, D] float32, a ring buffer of earlier embeddings.
      cursor: [] int32 in [0, K), index of the oldest row, which the next push overwrites.
    """

    rows: jax.Array
    cursor: jax.Array


def init_queue(key: jax.Array, size: int, dim: int, *, initial: str = "unit") -> Queue:
    """Creates a queue of random directions, which embeddings replace over time.

    Args:
      key: a typed PRNG key.
      size: number of rows K.
      dim: dimension D of a row.
      initial: "unit" for rows of length 1, like the embeddings that replace them; "reference" for
        columns of length 1 (rows of length about sqrt(D / K)), as in the authors' PyTorch code;
        "zeros" for rows of 0, whose similarity to all embeddings is 0.

    Examples:
      >>> queue = init_queue(jax.random.key(0), size=6, dim=3)
      >>> queue.rows.shape, int(queue.cursor)
      ((6, 3), 0)
    """
    axis = errors.lookup("initial", initial, INITIAL)
    errors.check_counts(queue_size=size, dim=dim)
    _check_key(key)
    if axis is None:
        return Queue(jnp.zeros((size, dim)), jnp.int32(0))
    rows = jax.random.normal(key, (size, dim))
    return Queue(rows / jnp.linalg.norm(rows, axis=axis, keepdims=True), jnp.int32(0))


def push(queue: Queue, rows: jax.Array) -> Queue:
    """Overwrites the oldest rows, wrapping around at the end; stops gradients.

    Args:
      queue: the queue, of any size K and any cursor.
      rows: [B, D], oldest first, any B. If B > K, only the newest K rows remain.

    Returns:
      The queue with its cursor advanced by B modulo K.

    Examples:
      >>> queue = push(init_queue(jax.random.key(0), size=6, dim=3), jnp.ones((4, 3)))
      >>> queue.rows[:, 0].round(2)[:4].tolist(), int(push(queue, jnp.ones((4, 3))).cursor)
      ([1.0, 1.0, 1.0, 1.0], 2)
    """
    _check_type("queue", queue, Queue)
    errors.check_arrays(rows=rows)
    size, dim = queue.rows.shape
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise errors.InputError(
            f"rows of shape {rows.shape} do not fit a queue of [{size}, {dim}]; push [B, {dim}]"
        )
    count = min(len(rows), size)
    dropped = len(rows) - count
    indices = (queue.cursor + dropped + jnp.arange(count)) % size
    newest = jax.lax.stop_gradient(rows[dropped:]).astype(queue.rows.dtype)
    # The indices are distinct because count <= size, so the writes may happen in any order.
    return Queue(
        queue.rows.at[indices].set(newest, unique_indices=True),
        ((queue.cursor + len(rows)) % size).astype(queue.cursor.dtype),
    )


def rows(queue_size: int | str, published: int) -> int:
    """Returns the number of rows of a queue; `published` for "auto"."""
    return published if is_auto(queue_size) else queue_size


class Bank(NamedTuple):
    """A memory with one row for each example of the training split.

    Attributes:
      rows: [N, D] float32, moving averages of the examples' embeddings.
    """

    rows: jax.Array


def init_bank(key: jax.Array, examples: int, dim: int) -> Bank:
    """Creates a bank of rows uniform in +-sqrt(3 / D), hence of length 1 on average.

    Args:
      key: a typed PRNG key.
      examples: number of rows N.
      dim: dimension D of a row.
    """
    errors.check_counts(examples=examples, dim=dim)
    _check_key(key)
    bound = math.sqrt(3 / dim)
    return Bank(jax.random.uniform(key, (examples, dim), minval=-bound, maxval=bound))


def update(bank: Bank, index: jax.Array, rows: jax.Array, *, momentum: float = 0.5) -> Bank:
    """Moves the rows of examples toward new embeddings and normalizes them; stops gradients.

        bank[i] <- u / |u|,  u = momentum bank[i] + (1 - momentum) row

    Args:
      bank: the bank.
      index: [B] int32 in [0, N). If an example occurs more than once, its last row is used.
      rows: [B, D].
      momentum: in [0, 1).

    Returns:
      The bank with at most B rows changed.
    """
    _check_type("bank", bank, Bank)
    errors.check_arrays(rows=rows)
    size, dim = bank.rows.shape
    checks.check_indices("index", index, size, f"a bank of {size} rows")
    check_momentum(momentum)
    if rows.shape != (*index.shape, dim):
        raise errors.InputError(
            f"rows of shape {rows.shape} do not fit index {index.shape} and a bank of [{size},"
            f" {dim}]; pass rows [B, {dim}] for index [B]"
        )
    old = bank.rows[index]
    moved = momentum * old + (1 - momentum) * jax.lax.stop_gradient(rows).astype(old.dtype)
    length = jnp.linalg.norm(moved, axis=-1, keepdims=True)
    # A scatter writes duplicates in any order, so all but the last are moved out of bounds.
    repeated = jnp.triu(index[:, None] == index[None], 1).any(axis=1)
    targets = jnp.where(repeated, size, index)
    return Bank(bank.rows.at[targets].set(moved / jnp.maximum(length, 1e-12), mode="drop"))


def check_momentum(momentum: Any) -> None:
    """Raises an InputError for a momentum outside [0, 1); traced values are not checked."""
    is_number = isinstance(momentum, Real) and not isinstance(momentum, bool)
    if not errors.is_traced(momentum) and not (is_number and 0 <= momentum < 1):
        raise errors.InputError(f"momentum is {momentum!r}, but must be a number in [0, 1)")


def _check_type(name: str, value: Any, kind: type) -> None:
    """Raises an InputError unless the value is a `kind` of memory whose parts are arrays."""
    if not isinstance(value, kind):
        raise errors.InputError(
            f"{name} is of type {type(value).__name__}, but must be a {kind.__name__}"
        )
    errors.check_arrays(**{f"{name}.{part}": array for part, array in value._asdict().items()})


def _check_key(key: Any) -> None:
    shape, dtype = getattr(key, "shape", None), getattr(key, "dtype", None)
    is_typed = shape == () and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not is_typed and not (shape == (2,) and dtype == jnp.uint32):
        raise errors.InputError(
            f"key is {key!r}, but must be a PRNG key, such as jax.random.key(0)"
        )
