"""Nearest images by cosine similarity: overlap of two embeddings, and classification by votes.

The search is compiled and processes images in chunks, so that memory never holds all [N, N]
similarities.
"""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors
from rrd_jax.evaluation.rows import chunks

TEMPERATURE = 0.07
# Numbers of voting images, as in arXiv 2104.14294.
KS = (10, 20, 100, 200)
# Maximum number of similarities in memory at once.
_MAX_SIMILARITIES = 2**24
# Maximum number of elements of the embeddings on the device at once.
_MAX_ELEMENTS = 2**27


def nearest(
    queries: np.ndarray, embeddings: np.ndarray | None, k: int, *, chunk: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the rows nearest to each query by cosine, nearest first; ties are ordered by index.

    Args:
      queries: [Q, D].
      embeddings: [N, D], the rows to search; None to search the other queries.
      k: number of rows to find, in [1, N], or in [1, Q - 1] if embeddings is None.
      chunk: number of queries to compare at once; None for as many as fit into memory.

    Returns:
      (indices [Q, k] int32, cosines [Q, k] float32).

    Raises:
      InputError: there are fewer than k rows.
    """
    excludes_self = embeddings is None
    embeddings = queries if embeddings is None else embeddings
    count = len(embeddings) - excludes_self
    if not 1 <= k <= count:
        raise errors.InputError(f"k is {k}, but must be from 1 to the number of images, {count}")
    rows = max(1, _MAX_ELEMENTS // embeddings.shape[1])
    parts = [
        _search_rows(queries, embeddings[first : first + rows], first, k, excludes_self, chunk)
        for first in range(0, len(embeddings), rows)
    ]
    if len(parts) == 1:
        return parts[0]
    indices, cosines = (np.concatenate(column, axis=1) for column in zip(*parts, strict=True))
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(indices, order, axis=1), np.take_along_axis(cosines, order, axis=1)


def _search_rows(
    queries: np.ndarray,
    embeddings: np.ndarray,
    first: int,
    k: int,
    excludes_self: bool,
    chunk: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Searches embeddings whose first row has the index `first`; see `nearest`.

    The result has fewer than k columns if there are fewer rows. With `excludes_self`, the cosine of
    a query with itself is -inf.
    """
    count, k = len(queries), min(k, len(embeddings))
    chunk = min(chunk or max(1, _MAX_SIMILARITIES // len(embeddings)), count)
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
            is_self = (number * chunk + jnp.arange(chunk))[:, None] == rows[None]
            cosines = jnp.where(is_self, -jnp.inf, cosines)
        cosines, positions = jax.lax.top_k(cosines, k)
        return cosines, first + positions

    return jax.lax.map(search, (jnp.arange(len(parts)), parts))


def unit(embeddings: jax.Array) -> jax.Array:
    """Scales rows [N, D] to length 1; rows of zeros are unchanged."""
    lengths = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / jnp.where(lengths > 0, lengths, 1)


def in_common(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the share of indices that the rows of two arrays have in common, [N].

    Args:
      first: [N, k] indices, without duplicates in a row.
      second: [N, k] indices, without duplicates in a row.
    """
    common = sum((first == second[:, i : i + 1]).sum(axis=1) for i in range(second.shape[1]))
    return common / second.shape[1]


def agreement(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """Returns the share of k nearest rows, by cosine, that two embeddings have in common, [N].

    For independent embeddings, the expected mean is k / (N - 1).

    Args:
      x: [N, D].
      y: [N, E].
      k: number of nearest rows, in [1, N - 1].
    """
    return in_common(nearest(x, None, k)[0], nearest(y, None, k)[0])


def classify(
    queries: np.ndarray,
    embeddings: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    ks: Sequence[int] = KS,
    *,
    temperature: float = TEMPERATURE,
) -> dict[int, np.ndarray]:
    """Classifies queries by a vote of their k nearest rows, weighted by exp(cosine / T).

    Args:
      queries: [Q, D].
      embeddings: [N, D], embeddings of labeled images.
      labels: [N], class ids in [0, C).
      num_classes: C.
      ks: values of k; if N is smaller than k, all rows vote.
      temperature: T > 0.

    Returns:
      The classes [Q] int32 for each k. Of classes with equal votes, the first is chosen.

    References:
      arXiv 2104.14294, 1805.01978.
    """
    errors.check_positive(temperature=temperature)
    indices, cosines = nearest(queries, embeddings, min(max(ks), len(embeddings)))
    # Only ratios of weights matter. The nearest row has weight 1, so that no weight overflows.
    weights = np.exp((cosines - cosines[:, :1]).astype(np.float64) / temperature)
    classes = {k: np.empty(len(queries), np.int32) for k in ks}
    for part in chunks(len(queries), num_classes):
        for k, winners in _votes(labels[indices[part]], weights[part], num_classes, ks):
            classes[k][part] = winners
    return classes


def _votes(
    labels: np.ndarray, weights: np.ndarray, num_classes: int, ks: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields each k with the classes [Q] that win the vote of the first k of K labels, [Q, K]."""
    votes, images, done = np.zeros((len(labels), num_classes)), np.arange(len(labels)), 0
    for k in sorted(ks):
        for column in range(done, min(k, labels.shape[1])):
            votes[images, labels[:, column]] += weights[:, column]
        done = k
        yield k, votes.argmax(axis=1)
