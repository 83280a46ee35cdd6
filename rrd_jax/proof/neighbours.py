"""The nearest images by cosine: those that two embeddings have in common, and the class they say.

Compiled, for a few images at a time: N images are compared with N others without [N, N] numbers.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors

TEMPERATURE = 0.07
_NUMBERS = 2**24  # similarities that are in memory at once


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
    count, found = len(queries), len(embeddings) - own
    if not 1 <= k <= found:
        raise errors.InputError(f"{k} nearest images of {found}: k must be from 1 to {found}")
    chunk = min(chunk or max(1, _NUMBERS // len(embeddings)), count)
    padding = ((0, -count % chunk), (0, 0))
    parts = np.pad(queries.astype(np.float32), padding).reshape(-1, chunk, queries.shape[1])
    cosines, indices = jax.device_get(_nearest(parts, embeddings.astype(np.float32), k, own))
    return indices.reshape(-1, k)[:count], cosines.reshape(-1, k)[:count]


@functools.partial(jax.jit, static_argnums=(2, 3))
def _nearest(
    parts: jax.Array, embeddings: jax.Array, k: int, own: bool
) -> tuple[jax.Array, jax.Array]:
    """Of queries [parts, chunk, D]: cosines and indices, [parts, chunk, k]."""
    directions, chunk = unit(embeddings), parts.shape[1]

    def search(part):
        number, queries = part
        cosines = jnp.matmul(unit(queries), directions.T, precision="highest")
        if own:
            places = number * chunk + jnp.arange(chunk)
            itself = places[:, None] == jnp.arange(len(embeddings))[None]
            cosines = jnp.where(itself, -jnp.inf, cosines)
        return jax.lax.top_k(cosines, k)

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
    ks: Sequence[int] = (10, 20, 100, 200),
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
    voted, images = labels[indices], np.arange(len(queries))
    votes = np.zeros((len(queries), num_classes))
    classes = {}
    for place in range(indices.shape[1]):
        votes[images, voted[:, place]] += weights[:, place]
        if place + 1 in ks:
            classes[place + 1] = votes.argmax(axis=1).astype(np.int32)
    return {k: classes.get(k, votes.argmax(axis=1).astype(np.int32)) for k in ks}
