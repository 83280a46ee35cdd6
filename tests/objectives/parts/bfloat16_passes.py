"""Products of float32 matrices in bfloat16 passes, as on a TPU, and the resulting errors of RRD."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax.evaluation import rows
from rrd_jax.objectives.parts import direct, projections

ERRORS = ("similarity", "loss, relative", "gradient", "its largest entry", "of the projection")
# Pairs of parts of both factors, smallest products first. Part i is about 2^-8i of its number.
_PAIRS = {3: ((0, 1), (1, 0), (0, 0)), 6: ((0, 2), (2, 0), (1, 1), (0, 1), (1, 0), (0, 0))}


def product(
    similarities: int,
    weights: int,
    form: str,
    a: jax.Array,
    b: jax.Array,
    precision: jax.lax.Precision,
) -> jax.Array:
    """Computes `direct.product` in bfloat16 passes.

    Args:
      similarities: number of passes for the precision HIGHEST, 3 or 6.
      weights: number of passes for the precision HIGH, 3 or 6.
      form: subscripts of `jnp.einsum`.
      a: float32, the left factor.
      b: float32, the right factor.
      precision: HIGH or HIGHEST.

    Returns:
      float32, the product.
    """
    count = similarities if precision == jax.lax.Precision.HIGHEST else weights
    left, right = _parts(a), _parts(b)
    # Products of two bfloat16 numbers are exact in float32, and are added in float32.
    terms = [
        jnp.einsum(form, left[i], right[j], precision=jax.lax.Precision.HIGHEST)
        for i, j in _PAIRS[count]
    ]
    return functools.reduce(jnp.add, terms)


def _parts(x: jax.Array) -> list[jax.Array]:
    """Splits x into three float32 arrays of bfloat16 numbers whose sum is x."""
    parts = []
    for _ in range(3):
        # XLA would remove a conversion to bfloat16 and back.
        parts.append(jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7))
        x = x - parts[-1]
    return parts


def compare(
    arrays: tuple[np.ndarray, ...],
    temperatures: tuple[float, float],
    product: Any,
    *,
    has_maximum: bool = False,
) -> list[float]:
    """Returns the ERRORS of RRD compared with float64.

    The product with the kernel uses the passes of a TPU's HIGHEST precision, as in a run.

    Args:
      arrays: float32: the student's features [B, F], the kernel [F, D] of the student's projection,
        the teacher's embeddings [B, D] and the memory [K, D].
      temperatures: (student's temperature, teacher's temperature).
      product: a replacement for `direct.product`; pass the same object to compile only once.
      has_maximum: True to subtract the maximum before exponentials, as for rows of any length.

    Returns:
      The largest error of the similarities; the largest relative error of the losses; the norm of
      the error of the student's embedding gradient, relative to the norm of the gradient; its
      largest error, relative to its largest entry; the relative norm of the error of the kernel's
      gradient.
    """
    reach = None if has_maximum else 1 / temperatures[0]
    *actual, similarities = _values(product, reach)(*arrays, *temperatures)
    expected = _in_float64(*(array.astype(np.float64) for array in arrays), *temperatures)
    loss, gradient, kernel = (np.asarray(x, np.float64) for x in actual)
    scale = np.repeat(temperatures, len(loss)).reshape(2, -1, 1)
    return [
        float(np.abs(np.asarray(similarities, np.float64) * scale - expected[3]).max()),
        float(np.max(np.abs(loss - expected[0]) / expected[0])),
        float(np.linalg.norm(gradient - expected[1]) / np.linalg.norm(expected[1])),
        float(np.abs(gradient - expected[1]).max() / np.abs(expected[1]).max()),
        float(np.linalg.norm(kernel - expected[2]) / np.linalg.norm(expected[2])),
    ]


@functools.cache
def _values(product, reach):
    """Returns a compiled function.

    The function returns losses [B], gradients for embeddings and for the kernel, and similarities
    [2, B, K].
    """

    @jax.jit
    def values(features, kernel, teacher, memory, tau_s, tau_t):
        layer = {"kernel": kernel, "bias": jnp.zeros(kernel.shape[1])}
        project = functools.partial(projections.project, features=features)
        embedding, back = jax.vjp(project, layer)
        queries = embedding / tau_s, teacher / tau_t
        high, highest = jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST
        losses, direction = direct.losses(
            *queries, None, memory, gradient=True, shares=high, reach=reach, product=product
        )
        gradient = direction / tau_s
        similarities = product("qbd,kd->qbk", jnp.stack(queries), memory, highest)
        return losses, gradient, back(gradient)[0]["kernel"], similarities

    return values


def _in_float64(features, kernel, teacher, memory, tau_s, tau_t):
    """Computes losses, gradients and similarities with numpy in float64."""
    raw = features @ kernel
    embedding = rows.unit(raw)
    similarities = np.stack([embedding @ memory.T, teacher @ memory.T])
    logits = similarities / np.array([tau_s, tau_t]).reshape(2, 1, 1)
    logits -= logits.max(-1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    shares = np.exp(logs)
    gradient = (shares[0] - shares[1]) @ memory / tau_s
    along = (gradient * embedding).sum(-1, keepdims=True) * embedding
    before = (gradient - along) / np.linalg.norm(raw, axis=-1, keepdims=True)
    return -(shares[1] * logs[0]).sum(-1), gradient, features.T @ before, similarities
