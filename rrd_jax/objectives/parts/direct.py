"""Cross-entropy of relations to a memory from all similarities at once, with one gradient product.

With z a student's and u a teacher's query, each divided by its temperature, p(q) the softmax of
q . m_k over the rows, and n(q) its normalizer:

    loss = log n(z) - sum_k p_k(u) z . m_k,   its gradient for z = sum_k (p_k(z) - p_k(u)) m_k

The difference of the two softmaxes is taken before the product. Compared with the two attentions of
`relations`, this saves a quarter of the arithmetic and avoids the difference of two nearly equal
sums, so that three passes of bfloat16 on a TPU are accurate enough unless temperatures are low.
Similarities, which are divided by temperatures, are full float32.

If similarities are bounded, such as those of vectors of length 1, the exponentials need no maximum:
weights and their sums are fused with the product, and the similarities are not read again. The
value is then computed from sums with the student's weights and from the gradient g,

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
    """Returns `jnp.einsum` of two arrays in the device's arithmetic."""
    return jnp.einsum(form, a, b, precision=precision)


def losses(
    student: jax.Array,
    teacher: jax.Array,
    own_rows: jax.Array | None,
    memory: jax.Array,
    *,
    gradient: bool,
    shares: jax.lax.Precision = _EXACT,
    axes: tuple[str, ...] = (),
    reach: float | None = None,
    product: Callable[..., jax.Array] = product,
) -> tuple[jax.Array, jax.Array | None]:
    """Returns the losses and their gradient for the student.

    Args:
      student: [B, D].
      teacher: [B, D].
      own_rows: [B, D], an additional row per image, compared with that image only; None for none.
      memory: [K, D], or a device's shard.
      gradient: whether the gradient is computed.
      shares: precision of the gradient's product. On a TPU, HIGH is three passes of bfloat16 and
        HIGHEST six; on a CPU both are float32.
      axes: mesh axes over which the memory is sharded.
      reach: upper bound of the absolute similarities of the student, at most REACH, if those of the
        teacher are at most REACH too; None if unknown.
      product: function like this module's `product`; a substitute can emulate passes of bfloat16 on
        a CPU.

    Returns:
      ([B], in nats; [B, D] or None), float32 or wider.
    """
    dtype = jnp.result_type(student, teacher, memory, jnp.float32)
    student, teacher, rows = (x.astype(dtype) for x in (student, teacher, memory))
    if gradient and reach is not None:
        return _within(reach, student, teacher, own_rows, rows, shares, axes, product)
    queries = jnp.stack([student, teacher])
    similarities = _similarities(queries, rows, product)
    top = similarities.max(-1)
    if axes:
        top = jax.lax.pmax(top, axes)
    if own_rows is not None:
        own_rows = own_rows.astype(dtype)
        own_similarities = product("qbd,bd->qb", queries, own_rows, _EXACT)
        top = jnp.maximum(top, own_similarities)
    shifted = [similarities[i] - top[i][:, None] for i in (0, 1)]
    totals, cross = _sums(shifted)
    if axes:
        totals, cross = jax.lax.psum((totals, cross), axes)
    if own_rows is not None:
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
    if own_rows is not None:
        softmaxes = own_weights / totals
        direction = direction + (softmaxes[0] - softmaxes[1])[:, None] * own_rows
    return values, direction


def _within(reach, student, teacher, own_rows, rows, shares, axes, product):
    """Returns losses and gradient for bounded similarities, without subtracting a maximum.

    The gradient is as accurate as with a maximum. The error of a loss is up to 1e-7 of the
    student's largest similarity, since z . g is a sum of shares that add up to 0 except for
    rounding. Similarities are summed less `reach`; otherwise the error would be twice as large.
    """
    batch = len(student)
    queries = jnp.concatenate([student, teacher])
    similarities = product("qd,kd->qk", queries, rows, _EXACT)
    weights = jnp.exp(similarities)
    totals, cross = weights.sum(-1), (weights * (similarities - reach)).sum(-1)
    if axes:
        totals, cross = jax.lax.psum((totals, cross), axes)
    if own_rows is not None:
        own_rows = own_rows.astype(rows.dtype)
        own_similarities = product(
            "qd,qd->q", queries, jnp.concatenate([own_rows, own_rows]), _EXACT
        )
        own_weights = jnp.exp(own_similarities)
        totals, cross = totals + own_weights, cross + own_weights * (own_similarities - reach)
    # Dividing the two halves separately takes a TPU one instruction, slicing the quotient two.
    scales = 1 / totals[:batch], 1 / totals[batch:]

    def difference(weights):
        """Returns the student's softmax minus the teacher's."""
        halves = weights.reshape(2, batch, -1)
        return halves[0] * scales[0][:, None] - halves[1] * scales[1][:, None]

    direction = product("bk,kd->bd", difference(weights), rows, shares)
    if axes:
        direction = jax.lax.psum(direction, axes)
    if own_rows is not None:
        direction = direction + difference(own_weights) * own_rows
    values = _log(totals[:batch], reach) - cross[:batch] * scales[0]
    return values + (student * direction).sum(-1), direction


def _log(totals: jax.Array, reach: float) -> jax.Array:
    """Returns log(totals) - reach, accurate near 0."""
    scaled = totals * math.exp(-reach)
    # If all similarities are far below `reach`, the scaled totals underflow float32.
    is_normal = scaled > jnp.finfo(totals.dtype).tiny
    return jnp.where(is_normal, jnp.log(scaled), jnp.log(totals) - reach)


def _similarities(queries: jax.Array, rows: jax.Array, product: Callable) -> jax.Array:
    """Returns [2, B, K], in one product: a matrix with twice as many rows is multiplied faster."""
    _, batch, dim = queries.shape
    products = product("qd,kd->qk", queries.reshape(-1, dim), rows, _EXACT)
    return products.reshape(2, batch, -1)


def _sums(shifted: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns sums over the rows: [2, B] of the weights, [B] of teacher weight times student logit.

    The three sums run over arrays of one shape, so XLA computes them and the weights in one pass.
    """
    weights = [jnp.exp(shifted[i]) for i in (0, 1)]
    totals = [weights[i].sum(-1) for i in (0, 1)]
    return jnp.stack(totals), (weights[1] * shifted[0]).sum(-1)
