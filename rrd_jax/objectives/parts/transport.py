"""Optimal transport of probability between classes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors
from rrd_jax.objectives.parts.arithmetic import matmul, unit_rows

# Added to denominators, as in the published code.
_SMALLEST = 1e-8
# Images of a class that are compared: at most, about the number of CIFAR-100, and at least.
_PER_CLASS, _FEWEST = 512, 8


def sinkhorn(
    a: jax.Array, b: jax.Array, cost: jax.Array, *, regularization: float, iterations: int
) -> jax.Array:
    """Computes the cost of entropic transport from a to b by Sinkhorn's iterations.

    Classes with a = b = 0 take no part. Gradients pass through all iterations.

    Args:
      a: [B, C] probabilities.
      b: [B, C] probabilities.
      cost: [C, C] cost of moving probability between two classes.
      regularization: weight of the entropy, > 0.
      iterations: number of iterations.

    Returns:
      [B] costs sum_ij P_ij cost_ij of the plans P.
    """
    kernel = jnp.exp(-cost / regularization)
    present = (a > 0) | (b > 0)
    u = present / jnp.maximum(jnp.sum(present, axis=-1, keepdims=True), 1)
    v = u
    for _ in range(iterations):
        v = b / (matmul(u, kernel) + _SMALLEST)
        u = a / (matmul(v, kernel.T) + _SMALLEST)
    return jnp.sum(u * matmul(v, (kernel * cost).T), axis=-1)


def head_distances(name: str, head: Any) -> jax.Array:
    """Computes 1 - cosine [C, C] of the vectors of a classifier {"kernel": [D, C], "bias": [C]}.

    Args:
      name: name of the objective in messages.
      head: the classifier.

    Raises:
      InputError: the classifier has no weights.
    """
    if isinstance(head["kernel"], jax.ShapeDtypeStruct):
        raise errors.InputError(
            f"{name} copies the teacher's classifier, but the teacher has no weights; pass the"
            " teacher's variables when the state is created"
        )
    rows = unit_rows(head["kernel"].T.astype(jnp.float32))
    return jnp.maximum(1 - matmul(rows, rows.T), 0)


def cka_distances(embedding: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Computes 1 - linear CKA [C, C] of the embeddings of each pair of classes.

    Row n of one class is paired with row n of the other, in the order of the images; all classes
    are cut to the size of the smallest, at most 512. A class with fewer than 8 images has the mean
    distance to all others, which is 1 if there are fewer than two larger classes.

    Args:
      embedding: [N, D].
      labels: [N], class ids.
      classes: number C of classes.
    """
    rows = {i: np.flatnonzero(labels == i)[:_PER_CLASS] for i in range(classes)}
    rows = {i: part for i, part in rows.items() if len(part) >= _FEWEST}
    count = min((len(part) for part in rows.values()), default=0)
    # The inner product of two Gram matrices is the squared norm of the product of features.
    grams = np.empty((len(rows), count * count), np.float32)
    for gram, part in zip(grams, rows.values(), strict=True):
        features = embedding[part[:count]].astype(np.float64)
        features -= features.mean(0)
        product = features @ features.T
        norm = np.linalg.norm(product)
        gram[:] = (product / norm if norm else product).ravel()
    measured = np.maximum(1 - grams @ grams.T, 0)
    others = ~np.eye(len(rows), dtype=bool)
    distances = np.full((classes, classes), measured[others].mean() if len(rows) > 1 else 1.0)
    distances[np.ix_(list(rows), list(rows))] = measured
    return distances * (1 - np.eye(classes))
