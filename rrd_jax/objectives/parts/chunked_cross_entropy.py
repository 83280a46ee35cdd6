"""Cross-entropy of relations to a memory: of all rows at once, or of one chunk after the other."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Rows are compared in this many groups side by side, so that each device compares its own rows of
# a memory that is split over as many devices, or a divisor of that.
_GROUPS = 256
_LOW = -1e30  # below every similarity, and finite: zero times it is zero


class _Seen(NamedTuple):
    """What is known of the rows seen so far, for each image and group: [B, G], the last [B, G, D].

    With s and t the similarities of student and teacher: `top_*` is the largest; `sum_*` the sum of
    exp(s - top_s); `cross` that of exp(t - top_t) (s - top_s); `mean_*` that of exp(s - top_s) row.
    """

    top_s: jax.Array
    sum_s: jax.Array
    top_t: jax.Array
    sum_t: jax.Array
    cross: jax.Array
    mean_s: jax.Array | None = None
    mean_t: jax.Array | None = None


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def chunked(student: jax.Array, teacher: jax.Array, memory: jax.Array, chunk: int) -> jax.Array:
    """- sum_k softmax_k(teacher . m_k) log softmax_k(student . m_k), in one pass (online softmax).

    The gradient for `student`, sum_k (softmax_k(student . m_k) - softmax_k(teacher . m_k)) m_k, is
    summed up in the same pass; the others are constants.

    Args:
      student: [B, D].
      teacher: [B, D].
      memory: [K, D].
      chunk: about how many rows are compared at once.

    Returns:
      [B], in nats.
    """
    return _loss(_scan(student, teacher, memory, chunk, directions=False))


def _forward(student, teacher, memory, chunk):
    seen = _scan(student, teacher, memory, chunk, directions=True)
    direction = seen.mean_s / seen.sum_s[:, None] - seen.mean_t / seen.sum_t[:, None]
    return _loss(seen), direction


def _backward(chunk, direction, gradient):
    del chunk
    return gradient[:, None] * direction, None, None


chunked.defvjp(_forward, _backward)


def _loss(seen: _Seen) -> jax.Array:
    return jnp.log(seen.sum_s) - seen.cross / seen.sum_t


@jax.custom_vjp
def direct(student: jax.Array, teacher: jax.Array, memory: jax.Array) -> jax.Array:
    """The value and gradient of `chunked`, of all rows at once."""
    return _compare(student, teacher, memory)[0]


def _compare(student, teacher, memory):
    # One product for both; then one pass over what it gives, here and one in the gradient.
    s, t = _einsum("nbd,kd->nbk", jnp.stack([student, teacher]), memory)
    top_s, top_t = s.max(-1, keepdims=True), t.max(-1, keepdims=True)
    weight_t = jnp.exp(t - top_t)
    sums = jnp.exp(s - top_s), weight_t, weight_t * (s - top_s)
    sum_s, sum_t, cross = (x.sum(-1) for x in sums)
    total_s, total_t = top_s[:, 0] + jnp.log(sum_s), top_t[:, 0] + jnp.log(sum_t)
    return jnp.log(sum_s) - cross / sum_t, (s, t, total_s, total_t, memory)


def _compare_backward(kept, gradient):
    s, t, total_s, total_t, memory = kept
    difference = jnp.exp(s - total_s[:, None]) - jnp.exp(t - total_t[:, None])
    return _einsum("bk,kd->bd", gradient[:, None] * difference, memory), None, None


direct.defvjp(_compare, _compare_backward)


def _scan(
    student: jax.Array, teacher: jax.Array, memory: jax.Array, chunk: int, *, directions: bool
) -> _Seen:
    """What is known after all rows, summed over the groups: [B] and [B, D]."""
    (batch, dim), size = student.shape, len(memory)
    groups = math.gcd(size, _GROUPS)
    depth = size // groups
    width = max(1, min(depth, chunk // groups))
    rows = memory.reshape(groups, depth, dim)

    def add_chunk(seen: _Seen, step: jax.Array) -> tuple[_Seen, None]:
        # The last slice may reach back into rows that were seen: those count for nothing.
        first = jnp.minimum(step * width, depth - width)
        part = jax.lax.dynamic_slice_in_dim(rows, first, width, axis=1)
        fresh = first + jnp.arange(width) >= step * width
        s, t = (jnp.where(fresh, _einsum("bd,gwd->bgw", x, part), _LOW) for x in (student, teacher))
        new = _of_chunk(seen, s, t, part, directions=directions)
        return jax.tree.map(jnp.add, new, _moved(seen, new.top_s, new.top_t)), None

    zero, low = jnp.zeros((batch, groups)), jnp.full((batch, groups), _LOW)
    start = _Seen(low, zero, low, zero, zero)
    if directions:
        no_direction = jnp.zeros((batch, groups, dim))
        start = start._replace(mean_s=no_direction, mean_t=no_direction)
    seen, _ = jax.lax.scan(add_chunk, start, jnp.arange(-(-depth // width)))
    tops = seen.top_s.max(1, keepdims=True), seen.top_t.max(1, keepdims=True)
    return jax.tree.map(lambda leaf: leaf.sum(1), _moved(seen, *tops))


def _of_chunk(
    seen: _Seen, s: jax.Array, t: jax.Array, rows: jax.Array, *, directions: bool
) -> _Seen:
    """The sums of a chunk, with the tops of it and of what was seen before.

    Args:
      seen: before the chunk.
      s: [B, G, W] similarities of the student.
      t: [B, G, W] similarities of the teacher.
      rows: [G, W, D] of the chunk.
      directions: whether the means are needed.
    """
    top_s, top_t = (jnp.maximum(top, x.max(-1)) for top, x in ((seen.top_s, s), (seen.top_t, t)))
    weight_s, weight_t = jnp.exp(s - top_s[..., None]), jnp.exp(t - top_t[..., None])
    new = _Seen(
        top_s,
        weight_s.sum(-1),
        top_t,
        weight_t.sum(-1),
        (weight_t * (s - top_s[..., None])).sum(-1),
    )
    if directions:
        mean_s, mean_t = (_einsum("bgw,gwd->bgd", w, rows) for w in (weight_s, weight_t))
        new = new._replace(mean_s=mean_s, mean_t=mean_t)
    return new


def _moved(seen: _Seen, top_s: jax.Array, top_t: jax.Array) -> _Seen:
    """The sums in terms of larger tops. The tops themselves become 0: `new` adds its own."""
    scale_s, scale_t = jnp.exp(seen.top_s - top_s), jnp.exp(seen.top_t - top_t)
    moved = _Seen(
        jnp.zeros_like(seen.top_s),
        seen.sum_s * scale_s,
        jnp.zeros_like(seen.top_t),
        seen.sum_t * scale_t,
        (seen.cross + seen.sum_t * (seen.top_s - top_s)) * scale_t,
    )
    if seen.mean_s is None:
        return moved
    return moved._replace(
        mean_s=seen.mean_s * scale_s[..., None], mean_t=seen.mean_t * scale_t[..., None]
    )


def _einsum(form: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(form, a, b, precision=jax.lax.Precision.HIGHEST)
