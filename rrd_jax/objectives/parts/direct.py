"""Cross-entropy of relations to a memory from all similarities at once, with one gradient product.

With z a student's and u a teacher's query, each divided by its temperature, p(q) the softmax of
q . m_k over the rows, and n(q) its normaliser:

    loss = log n(z) - sum_k p_k(u) z . m_k,   its gradient for z = sum_k (p_k(z) - p_k(u)) m_k

The difference of the two softmaxes is taken before the product, which is a quarter less arithmetic
than the two attentions of `relations`, and leaves no difference of two nearly equal sums: three
passes of bfloat16 on a TPU are then exact enough but for low temperatures. Similarities, which are
divided by temperatures, are full float32.

Where similarities are known to be small, such as those of vectors of length 1, exponentials need no
maximum: weights and their sums are made as the product comes out, and nothing is read once more.
The value is then that of sums over a student's own rows, and of the gradient g,

    loss = log n(z) - sum_k p_k(z) z . m_k + z . g
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

# The largest similarity whose exponential, times 132 and summed over 2^22 rows, is a float32.
REACH = 66.0
_EXACT = jax.lax.Precision.HIGHEST


def product(form: str, a: jax.Array, b: jax.Array, precision: jax.lax.Precision) -> jax.Array:
    """`jnp.einsum`, as the device computes it."""
    return jnp.einsum(form, a, b, precision=precision)


def losses(
    student: jax.Array,
    teacher: jax.Array,
    own: jax.Array | None,
    memory: jax.Array,
    *,
    gradient: bool,
    shares: jax.lax.Precision = _EXACT,
    axes: tuple[str, ...] = (),
    reach: float | None = None,
    product: Callable[..., jax.Array] = product,
) -> tuple[jax.Array, jax.Array | None]:
    """Losses, and their gradient for the student.

    Args:
      student: [B, D].
      teacher: [B, D].
      own: [B, D], one more row for each image alone; None for no such rows.
      memory: [K, D], or a device's part of it.
      gradient: whether it is asked for.
      shares: precision of the gradient's product. On a TPU HIGH are three passes of bfloat16 and
        HIGHEST six; on a CPU both are float32.
      axes: of the mesh around, whose devices hold the memory's parts.
      reach: what the size of no similarity of the student's exceeds, REACH at most, if those of the
        teacher's stay within REACH too; None where that is not known.
      product: as this module's; another one shows on a CPU what passes of bfloat16 lose.

    Returns:
      ([B], in nats; [B, D] or None), float32 or wider.
    """
    dtype = jnp.result_type(student, teacher, memory, jnp.float32)
    student, teacher, rows = (x.astype(dtype) for x in (student, teacher, memory))
    if gradient and reach is not None:
        return _within(reach, student, teacher, own, rows, shares, axes, product)
    queries = jnp.stack([student, teacher])
    similarities = _similarities(queries, rows, product)
    top = similarities.max(-1)
    if axes:
        top = jax.lax.pmax(top, axes)
    if own is not None:
        own = own.astype(dtype)
        own_similarities = product("qbd,bd->qb", queries, own, _EXACT)
        top = jnp.maximum(top, own_similarities)
    shifted = [similarities[i] - top[i][:, None] for i in (0, 1)]
    totals, cross = _sums(shifted)
    if axes:
        totals, cross = jax.lax.psum((totals, cross), axes)
    if own is not None:
        own_shifted = own_similarities - top
        own_weights = jnp.exp(own_shifted)
        totals, cross = totals + own_weights, cross + own_weights[1] * own_shifted[0]
    values = jnp.log(totals[0]) - cross / totals[1]
    if not gradient:
        return values, None
    softmaxes = [jnp.exp(shifted[i]) * (1 / totals[i])[:, None] for i in (0, 1)]
    direction = product("bk,kd->bd", softmaxes[0] - softmaxes[1], rows, shares)
    if axes:
        direction = jax.lax.psum(direction, axes)
    if own is not None:
        softmaxes = own_weights / totals
        direction = direction + (softmaxes[0] - softmaxes[1])[:, None] * own
    return values, direction


def _within(reach, student, teacher, own, rows, shares, axes, product):
    """Losses and gradient of similarities that need no maximum.

    The gradient is as exact as with one. A loss is off by up to 1e-7 of the student's largest
    similarity, as z . g is a sum of shares that add up to 0 but for rounding; near that largest one
    similarities are summed less `reach`, or twice as much would be lost.
    """
    batch = len(student)
    queries = jnp.concatenate([student, teacher])
    similarities = product("qd,kd->qk", queries, rows, _EXACT)
    weights = jnp.exp(similarities)
    totals, cross = weights.sum(-1), (weights * (similarities - reach)).sum(-1)
    if axes:
        totals, cross = jax.lax.psum((totals, cross), axes)
    if own is not None:
        own = own.astype(rows.dtype)
        own_similarities = product("qd,qd->q", queries, jnp.concatenate([own, own]), _EXACT)
        own_weights = jnp.exp(own_similarities)
        totals, cross = totals + own_weights, cross + own_weights * (own_similarities - reach)
    # Two halves divided apart are one instruction of a TPU's, and one array's halves two.
    scales = 1 / totals[:batch], 1 / totals[batch:]

    def difference(weights):
        """Of the softmaxes."""
        apart = weights.reshape(2, batch, -1)
        return apart[0] * scales[0][:, None] - apart[1] * scales[1][:, None]

    direction = product("bk,kd->bd", difference(weights), rows, shares)
    if axes:
        direction = jax.lax.psum(direction, axes)
    if own is not None:
        direction = direction + difference(own_weights) * own
    values = _log(totals[:batch], reach) - cross[:batch] * scales[0]
    return values + (student * direction).sum(-1), direction


def _log(totals: jax.Array, reach: float) -> jax.Array:
    """log(totals) - reach, with the digits of what is near 0."""
    scaled = totals * math.exp(-reach)
    # Where all similarities are far below, that is no number of float32.
    is_normal = scaled > jnp.finfo(totals.dtype).tiny
    return jnp.where(is_normal, jnp.log(scaled), jnp.log(totals) - reach)


def _similarities(queries: jax.Array, rows: jax.Array, product: Callable) -> jax.Array:
    """[2, B, K]; one product for both: twice as many rows of a matrix are multiplied faster."""
    _, batch, dim = queries.shape
    products = product("qd,kd->qk", queries.reshape(-1, dim), rows, _EXACT)
    return products.reshape(2, batch, -1)


def _sums(shifted: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Sums over the rows, [2, B] of the weights and [B] of the teacher's, each times the student's.

    Three sums over arrays of one shape: XLA makes them in one pass, and the weights once.
    """
    weights = [jnp.exp(shifted[i]) for i in (0, 1)]
    totals = [weights[i].sum(-1) for i in (0, 1)]
    return jnp.stack(totals), (weights[1] * shifted[0]).sum(-1)
