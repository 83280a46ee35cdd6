"""The nearest images by cosine: those that two embeddings have in common, and the class they say.

Compiled, for a few images at a time: N images are compared with N others without [N, N] numbers.
"""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors
from rrd_jax.evaluation.rows import chunks

TEMPERATURE = 0.07
KS = (10, 20, 100, 200)  # how many images vote, as arXiv 2104.14294 has it
_NUMBERS = 2**24  # similarities that are in memory at once
_ROWS = 2**27  # numbers of embeddings that are on the device at once


def nearest(
    queries: np.ndarray, embeddings: np.ndarray | None, k: int, *, chunk: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows of each query by cosine, the nearest first, of equal ones the first.

    Args:
      queries: [Q, D].
      embeddings: [N, D], in which they are sought; None for the queries themselves, of which none
        is its own neighbour.
      k: how many, from 1 to N, or to Q - 1.
      chunk: queries that are compared at once; None for what fits into memory.

    Returns:
      (indices [Q, k] int32, cosines [Q, k] float32).

    Raises:
      InputError: there are not so many.
    """
    own = embeddings is None
    embeddings = queries if embeddings is None else embeddings
    found = len(embeddings) - own
    if not 1 <= k <= found:
        raise errors.InputError(f"{k} nearest images of {found}: k must be from 1 to {found}")
    rows = max(1, _ROWS // embeddings.shape[1])
    parts = [
        _nearest_of(queries, embeddings[first : first + rows], first, k, own, chunk)
        for first in range(0, len(embeddings), rows)
    ]
    if len(parts) == 1:
        return parts[0]
    indices, cosines = (np.concatenate(column, axis=1) for column in zip(*parts, strict=True))
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(indices, order, axis=1), np.take_along_axis(cosines, order, axis=1)


def _nearest_of(
    queries: np.ndarray, embeddings: np.ndarray, first: int, k: int, own: bool, chunk: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, among the rows from `first` on; fewer than k where there are fewer rows.

    With `own`, a query's own row is among them, and as far away as can be.
    """
    count, k = len(queries), min(k, len(embeddings))
    chunk = min(chunk or max(1, _NUMBERS // len(embeddings)), count)
    padding = ((0, -count % chunk), (0, 0))
    parts = np.pad(queries.astype(np.float32), padding).reshape(-1, chunk, queries.shape[1])
    found = _nearest(parts, embeddings.astype(np.float32), np.int32(first), k, own)
    cosines, indices = (array.reshape(-1, k)[:count] for array in jax.device_get(found))
    return indices, cosines


@functools.partial(jax.jit, static_argnums=(3, 4))
def _nearest(
    parts: jax.Array, embeddings: jax.Array, first: jax.Array, k: int, own: bool
) -> tuple[jax.Array, jax.Array]:
    """Of queries [parts, chunk, D]: cosines and indices, [parts, chunk, k]."""
    directions, chunk = unit(embeddings), parts.shape[1]
    rows = first + jnp.arange(len(embeddings))

    def search(part):
        number, queries = part
        cosines = jnp.matmul(unit(queries), directions.T, precision="highest")
        if own:
            itself = (number * chunk + jnp.arange(chunk))[:, None] == rows[None]
            cosines = jnp.where(itself, -jnp.inf, cosines)
        cosines, places = jax.lax.top_k(cosines, k)
        return cosines, first + places

    return jax.lax.map(search, (jnp.arange(len(parts)), parts))


def unit(embeddings: jax.Array) -> jax.Array:
    """Rows [N, D] of length 1; zeros stay zeros."""
    lengths = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / jnp.where(lengths > 0, lengths, 1)


def in_common(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """[N], the share of each row's k indices that both have.

    Args:
      ours: [N, k], each index at most once in a row.
      theirs: [N, k].
    """
    both = sum((ours == theirs[:, i : i + 1]).sum(axis=1) for i in range(theirs.shape[1]))
    return both / theirs.shape[1]


def agreement(one: np.ndarray, other: np.ndarray, k: int) -> np.ndarray:
    """[N], the share of each row's k nearest rows, by cosine, that are so in both embeddings.

    For embeddings that know nothing of one another its mean is k / (N - 1).

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
    """The class of each query by a vote of its nearest rows, each with weight exp(cosine / T).

    Args:
      queries: [Q, D].
      embeddings: [N, D], of images with labels.
      labels: [N], in [0, C).
      num_classes: C.
      ks: how many rows vote; all of them where there are fewer.
      temperature: T > 0.

    Returns:
      [Q] int32 classes, for each of `ks`; of equal votes the first class.

    References:
      arXiv 2104.14294, 1805.01978.
    """
    errors.check_positive(temperature=temperature)
    indices, cosines = nearest(queries, embeddings, min(max(ks), len(embeddings)))
    # Only ratios of weights matter: those of the nearest are 1, so that none is too large.
    weights = np.exp((cosines - cosines[:, :1]).astype(np.float64) / temperature)
    classes = {k: np.empty(len(queries), np.int32) for k in ks}
    for part in chunks(len(queries), num_classes):
        for k, found in _votes(labels[indices[part]], weights[part], num_classes, ks):
            classes[k][part] = found
    return classes


def _votes(
    labels: np.ndarray, weights: np.ndarray, num_classes: int, ks: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Of each of `ks`: the classes [Q] with most votes of the first k labels of [Q, K]."""
    votes, images, done = np.zeros((len(labels), num_classes)), np.arange(len(labels)), 0
    for k in sorted(ks):
        for place in range(done, min(k, labels.shape[1])):
            votes[images, labels[:, place]] += weights[:, place]
        done = k
        yield k, votes.argmax(axis=1)
