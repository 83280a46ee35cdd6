"""Nearest images by cosine: overlap between two embeddings, and classification by votes.

Compiled, for a few images at a time, so that the [N, N] similarities are never all in memory.
"""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors
from rrd_jax.evaluation.rows import chunks

TEMPERATURE = 0.07
KS = (10, 20, 100, 200)  # Numbers of voting images, as in arXiv 2104.14294.
_NUMBERS = 2**24  # The most similarities that are in memory at once.
_ROWS = 2**27  # The most numbers of embeddings that are on the device at once.


def nearest(
    queries: np.ndarray, embeddings: np.ndarray | None, k: int, *, chunk: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest rows of each query by cosine, the nearest first, ties by index.

    Args:
      queries: [Q, D].
      embeddings: [N, D], the rows to search; None for the other queries.
      k: number of rows to find, from 1 to N, or to Q - 1.
      chunk: queries that are compared at once; None for as many as fit into memory.

    Returns:
      (indices [Q, k] int32, cosines [Q, k] float32).

    Raises:
      InputError: there are fewer than k rows.
    """
    excludes_self = embeddings is None
    embeddings = queries if embeddings is None else embeddings
    count = len(embeddings) - excludes_self
    if not 1 <= k <= count:
        raise errors.InputError(f"{k} nearest images of {count}: k must be from 1 to {count}")
    rows = max(1, _ROWS // embeddings.shape[1])
    parts = [
        _nearest_of(queries, embeddings[first : first + rows], first, k, excludes_self, chunk)
        for first in range(0, len(embeddings), rows)
    ]
    if len(parts) == 1:
        return parts[0]
    indices, cosines = (np.concatenate(column, axis=1) for column in zip(*parts, strict=True))
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(indices, order, axis=1), np.take_along_axis(cosines, order, axis=1)


def _nearest_of(
    queries: np.ndarray,
    embeddings: np.ndarray,
    first: int,
    k: int,
    excludes_self: bool,
    chunk: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Searches the rows from `first` on, as `nearest`; returns fewer than k if there are fewer.

    With `excludes_self`, a query's own row has the cosine -inf.
    """
    count, k = len(queries), min(k, len(embeddings))
    chunk = min(chunk or max(1, _NUMBERS // len(embeddings)), count)
    padding = ((0, -count % chunk), (0, 0))
    parts = np.pad(queries.astype(np.float32), padding).reshape(-1, chunk, queries.shape[1])
    arrays = _nearest(parts, embeddings.astype(np.float32), np.int32(first), k, excludes_self)
    cosines, indices = (array.reshape(-1, k)[:count] for array in jax.device_get(arrays))
    return indices, cosines


@functools.partial(jax.jit, static_argnums=(3, 4))
def _nearest(
    parts: jax.Array, embeddings: jax.Array, first: jax.Array, k: int, excludes_self: bool
) -> tuple[jax.Array, jax.Array]:
    """Returns cosines and indices [parts, chunk, k] for queries [parts, chunk, D]."""
    directions, chunk = unit(embeddings), parts.shape[1]
    rows = first + jnp.arange(len(embeddings))

    def search(part):
        number, queries = part
        cosines = jnp.matmul(unit(queries), directions.T, precision="highest")
        if excludes_self:
            itself = (number * chunk + jnp.arange(chunk))[:, None] == rows[None]
            cosines = jnp.where(itself, -jnp.inf, cosines)
        cosines, places = jax.lax.top_k(cosines, k)
        return cosines, first + places

    return jax.lax.map(search, (jnp.arange(len(parts)), parts))


def unit(embeddings: jax.Array) -> jax.Array:
    """Scales rows [N, D] to length 1; zeros stay zeros."""
    lengths = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / jnp.where(lengths > 0, lengths, 1)


def in_common(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Returns [N], the share of each row's k indices that are in both.

    Args:
      ours: [N, k], each index at most once in a row.
      theirs: [N, k].
    """
    both = sum((ours == theirs[:, i : i + 1]).sum(axis=1) for i in range(theirs.shape[1]))
    return both / theirs.shape[1]


def agreement(one: np.ndarray, other: np.ndarray, k: int) -> np.ndarray:
    """Returns [N], the share of each row's k nearest rows, by cosine, common to both embeddings.

    For independent embeddings its mean is k / (N - 1).

    Args:
      one: [N, D].
      other: [N, E].
      k: from 1 to N - 1.
    """
    return in_common(*(nearest(embeddings, None, k)[0] for embeddings in (one, other)))


def classify(
    queries: np.ndarray,
    embeddings: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    ks: Sequence[int] = KS,
    *,
    temperature: float = TEMPERATURE,
) -> dict[int, np.ndarray]:
    """Classifies queries by a vote of their nearest rows, each with weight exp(cosine / T).

    Args:
      queries: [Q, D].
      embeddings: [N, D], of images with labels.
      labels: [N], in [0, C).
      num_classes: C.
      ks: numbers of rows that vote; all rows where there are fewer.
      temperature: T > 0.

    Returns:
      [Q] int32 classes, for each of `ks`; ties go to the first class.

    References:
      arXiv 2104.14294, 1805.01978.
    """
    errors.check_positive(temperature=temperature)
    indices, cosines = nearest(queries, embeddings, min(max(ks), len(embeddings)))
    # Only ratios of weights matter. The nearest has weight 1, so that no weight overflows.
    weights = np.exp((cosines - cosines[:, :1]).astype(np.float64) / temperature)
    classes = {k: np.empty(len(queries), np.int32) for k in ks}
    for part in chunks(len(queries), num_classes):
        for k, winners in _votes(labels[indices[part]], weights[part], num_classes, ks):
            classes[k][part] = winners
    return classes


def _votes(
    labels: np.ndarray, weights: np.ndarray, num_classes: int, ks: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields k and the classes [Q] with most votes of the first k labels of [Q, K]."""
    votes, images, done = np.zeros((len(labels), num_classes)), np.arange(len(labels)), 0
    for k in sorted(ks):
        for place in range(done, min(k, labels.shape[1])):
            votes[images, labels[:, place]] += weights[:, place]
        done = k
        yield k, votes.argmax(axis=1)
