"""Products of float32 matrices in passes of bfloat16, as a TPU makes them, and what RRD loses."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax.evaluation import rows
from rrd_jax.objectives.parts import direct, projections

ERRORS = ("similarity", "loss, relative", "gradient", "its largest entry", "of the projection")
# Pairs of the parts of both factors, the smallest products first. Part i is 2^-8i of its number.
_PAIRS = {3: ((0, 1), (1, 0), (0, 0)), 6: ((0, 2), (2, 0), (1, 1), (0, 1), (1, 0), (0, 0))}


def product(
    similarities: int,
    weights: int,
    form: str,
    a: jax.Array,
    b: jax.Array,
    precision: jax.lax.Precision,
) -> jax.Array:
    """`direct.product` in passes.

    Args:
      similarities: passes where the precision is HIGHEST, 3 or 6.
      weights: passes where it is HIGH.
      form: as `jnp.einsum` has it.
      a: float32.
      b: float32.
      precision: HIGH or HIGHEST.
    """
    count = similarities if precision == jax.lax.Precision.HIGHEST else weights
    left, right = _parts(a), _parts(b)
    # Products of two bfloat16 are exact in float32, in which they are added up.
    terms = [
        jnp.einsum(form, left[i], right[j], precision=jax.lax.Precision.HIGHEST)
        for i, j in _PAIRS[count]
    ]
    return functools.reduce(jnp.add, terms)


def _parts(x: jax.Array) -> list[jax.Array]:
    """Three float32 arrays of bfloat16 numbers, which add up to x."""
    parts = []
    for _ in range(3):
        # XLA would take a conversion there and back for none.
        parts.append(jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7))
        x = x - parts[-1]
    return parts


def compare(
    given: tuple[np.ndarray, ...],
    temperatures: tuple[float, float],
    product: Any,
    *,
    has_maximum: bool = False,
) -> list[float]:
    """The largest ERRORS against float64.

    Args:
      given: the student's features [B, F] and the kernel [F, D] of its projection, the teacher's
        embeddings [B, D] and the memory [K, D], float32.
      temperatures: the student's and the teacher's.
      product: as `direct.product`; the same object for what is to be compiled once.
      has_maximum: whether exponentials have one in front, as for rows of any length.

    Returns:
      Of similarities and losses the largest error, of gradients for the student's embeddings and
      for the kernel the length of the error, each of a float64 gradient's length, and the largest
      error beside the largest entry. The kernel's passes are a TPU's HIGHEST, as in a run.
    """
    reach = None if has_maximum else 1 / temperatures[0]
    *found, similarities = _values(product, reach)(*given, *temperatures)
    wanted = _in_float64(*(array.astype(np.float64) for array in given), *temperatures)
    loss, gradient, kernel = (np.asarray(x, np.float64) for x in found)
    scale = np.repeat(temperatures, len(loss)).reshape(2, -1, 1)
    return [
        float(np.abs(np.asarray(similarities, np.float64) * scale - wanted[3]).max()),
        float(np.max(np.abs(loss - wanted[0]) / wanted[0])),
        float(np.linalg.norm(gradient - wanted[1]) / np.linalg.norm(wanted[1])),
        float(np.abs(gradient - wanted[1]).max() / np.abs(wanted[1]).max()),
        float(np.linalg.norm(kernel - wanted[2]) / np.linalg.norm(wanted[2])),
    ]


@functools.cache
def _values(product, reach):
    """Compiled: losses [B], gradients for embeddings and kernel, and similarities [2, B, K]."""

    @jax.jit
    def values(features, kernel, teacher, memory, tau_s, tau_t):
        layer = {"kernel": kernel, "bias": jnp.zeros(kernel.shape[1])}
        project = functools.partial(projections.project, features=features)
        embedding, back = jax.vjp(project, layer)
        queries = embedding / tau_s, teacher / tau_t
        three, exact = jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST
        losses, direction = direct.losses(
            *queries, None, memory, gradient=True, shares=three, reach=reach, product=product
        )
        gradient = direction / tau_s
        similarities = product("qbd,kd->qbk", jnp.stack(queries), memory, exact)
        return losses, gradient, back(gradient)[0]["kernel"], similarities

    return values


def _in_float64(features, kernel, teacher, memory, tau_s, tau_t):
    """The same of numpy."""
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
