"""Cross-entropy of relations to a memory: two attentions over its rows, in one walk.

With z a student's and u a teacher's query, each divided by its temperature, and A(q) the mean of
the rows weighted by softmax_k(q . m_k):

    loss = logsumexp_k(z . m_k) - z . A(u),   its gradient for z = A(z) - A(u)

so both come out of one walk over the rows, and nothing of size [B, K] exists. A row that each image
has of its own is joined to them in the end. On a TPU, whose memory holds [B, K] where that is not
large, arithmetic is what costs: `direct` has less of it.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from rrd_jax.cpu import convolutions
from rrd_jax.objectives.parts import direct


class _Tile(NamedTuple):
    """What is compared at once: at most so many images, and so many rows of the memory.

    So many tiles are computed side by side, for the same images and rows that follow each other.
    """

    images: int
    rows: int
    beside: int = 1


# A tile of similarities stays in a core's cache: from 128 rows to 1 024 the time is the same within
# a tenth, and all rows at once take twice as long.
_CPU = _Tile(images=256, rows=256)
# One tile's products are too small to be divided over cores: several as one batch take 0.7 to 0.9
# of the time on two, and 1.04 to 1.1 on one.
_CPUS = _Tile(images=256, rows=256, beside=4)
_SIMILARITIES = 2**21  # of a tile elsewhere, where launches cost more than memory: 8 MiB
_MOST_IMAGES, _LEAST_ROWS, _MOST_ROWS = 4096, 128, 2**14
# Similarities of the direct form, 32 MiB; a v5e chip keeps four times that at hand.
_AT_ONCE = 2**23


class _Seen(NamedTuple):
    """What is known of the rows seen so far, for each query, or image; queries are [2, B].

    With s a similarity: `top` is the largest, `total` the sum of exp(s - top), `mean` that of
    exp(s - top) row, None where it is not asked for. `cross` [B] is the sum over the rows of
    exp(t - top_t) (s - top_s), with the teacher's t and the student's s: a value taken from
    `total` and `mean` alone would be the difference of two numbers that may be nearly the same.
    """

    top: jax.Array
    total: jax.Array
    cross: jax.Array
    mean: jax.Array | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def cross_entropy(
    student: jax.Array,
    teacher: jax.Array,
    memory: jax.Array,
    own: jax.Array | None = None,
    chunk: int | None = None,
    mesh: AbstractMesh | None = None,
    precision: str = "highest",
    reach: float | None = None,
) -> jax.Array:
    """- sum_k softmax_k(teacher . m_k) log softmax_k(student . m_k).

    The gradient for `student` is of the same walk; the others are constants.

    Args:
      student: [B, D].
      teacher: [B, D].
      memory: [K, D].
      own: [B, D], one more row for each image alone; None for no such rows.
      chunk: rows that are compared at once; 0 for all, None for what suits the platform.
      mesh: devices that share the work: where their number divides K, each walks its own rows, and
        one small reduction joins what they found; where it divides B, each walks for its own
        images. None for one device, or what the compiler makes of it.
      precision: of the gradient's product on a TPU, "high" for three passes of bfloat16, "highest"
        for full float32, which all else is. It counts where chunk is None, and the similarities
        are 2^23 at most on each device.
      reach: what is known of the similarities' size, as `direct.losses` has it; it counts there
        too.

    Returns:
      [B], in nats, float32 or wider.
    """
    arrays = (student, teacher, memory, own)
    return _losses(*arrays, chunk, mesh, precision, reach, gradient=False)[0]


def _forward(student, teacher, memory, own, chunk, mesh, precision, reach):
    arrays = (student, teacher, memory, own)
    losses, direction = _losses(*arrays, chunk, mesh, precision, reach, gradient=True)
    return losses, direction.astype(student.dtype)


def _backward(chunk, mesh, precision, reach, direction, gradient):
    del chunk, mesh, precision, reach
    return (gradient[:, None] * direction).astype(direction.dtype), None, None, None


cross_entropy.defvjp(_forward, _backward)


def context_mesh() -> AbstractMesh | None:
    """The mesh around the function that is traced, if the compiler may split work over it."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if _axes(mesh) else None


def _axes(mesh: AbstractMesh) -> tuple[str, ...]:
    """Axes that are not in the hands of a `shard_map` around, and not the user's to name."""
    return tuple(
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == AxisType.Auto
    )


def _losses(student, teacher, memory, own, chunk, mesh, precision, reach, *, gradient):
    """Losses [B], and their gradient [B, D] or None."""

    def in_chunks(student, teacher, own, memory, axes=()):
        seen = _walk(student, teacher, memory, chunk=chunk, gradient=gradient)
        seen = _joined(seen, axes) if axes else seen
        return _finish(seen if own is None else _with_own(seen, student, teacher, own))

    def walk(student, teacher, own, memory, axes=()):
        arrays = (student, teacher, own, memory)
        in_full = functools.partial(in_chunks, axes=axes)
        if chunk is not None or 2 * len(student) * len(memory) > _AT_ONCE:
            return in_full(*arrays)
        shares = jax.lax.Precision[precision.upper()]
        at_once = functools.partial(
            direct.losses, gradient=gradient, shares=shares, axes=axes, reach=reach
        )
        return jax.lax.platform_dependent(*arrays, tpu=at_once, default=in_full)

    arrays = (student, teacher, own, memory)
    axes = _axes(mesh) if mesh else ()
    count = math.prod(mesh.shape[axis] for axis in axes)
    whole, parts = PartitionSpec(), PartitionSpec(axes)
    if count == 1 or (len(memory) % count and len(student) % count):
        return walk(*arrays)
    shard = functools.partial(jax.shard_map, mesh=mesh, axis_names=set(axes))
    if len(memory) % count:
        apart = shard(walk, in_specs=(parts, parts, parts, whole), out_specs=parts)
    else:
        joined = functools.partial(walk, axes=axes)
        apart = shard(joined, in_specs=(whole, whole, whole, parts), out_specs=whole)
    return apart(*arrays)


def _finish(seen: _Seen) -> tuple[jax.Array, jax.Array | None]:
    losses = jnp.log(seen.total[0]) - seen.cross / seen.total[1]
    if seen.mean is None:
        return losses, None
    attention = seen.mean / seen.total[..., None]
    return losses, attention[0] - attention[1]


def _with_own(seen: _Seen, student, teacher, own) -> _Seen:
    """What is known after one more row of each image."""
    own = own.astype(seen.top.dtype)
    queries = jnp.stack([student, teacher]).astype(own.dtype)
    similarities = _product("qbd,bd->qb", queries, own)
    mean = None if seen.mean is None else jnp.broadcast_to(own, queries.shape)
    one = _Seen(similarities, jnp.ones_like(similarities), jnp.zeros_like(seen.cross), mean)
    top = jnp.maximum(seen.top, similarities)
    return _sum(_moved(seen, top), _moved(one, top))


def _joined(seen: _Seen, axes: tuple[str, ...]) -> _Seen:
    """What all devices have seen together."""
    top = jax.lax.pmax(seen.top, axes)
    sums = jax.lax.psum(_moved(seen, top)[1:], axes)
    return _Seen(top, *sums)


def _walk(student, teacher, memory, *, chunk, gradient) -> _Seen:
    """What is known after all rows."""
    dtype = jnp.result_type(student, teacher, memory, jnp.float32)
    queries = jnp.stack([student.astype(dtype), teacher.astype(dtype)])
    if chunk is not None:
        tile = _Tile(_MOST_IMAGES, chunk or len(memory))
        return _walk_in_blocks(queries, memory, tile, gradient=gradient)
    rows = min(max(_SIMILARITIES // (2 * len(student)), _LEAST_ROWS), _MOST_ROWS)
    return jax.lax.platform_dependent(
        queries,
        memory,
        cpu=functools.partial(
            _walk_in_blocks, tile=_CPUS if convolutions.cores() > 1 else _CPU, gradient=gradient
        ),
        default=functools.partial(
            _walk_in_blocks, tile=_Tile(_MOST_IMAGES, rows), gradient=gradient
        ),
    )


def _walk_in_blocks(queries, memory, tile, *, gradient) -> _Seen:
    """The walk for some images after the other: what is known of them stays in cache too."""
    _, batch, dim = queries.shape
    blocks = -(-batch // tile.images)
    if blocks <= 1:
        return _walk_rows(queries, memory, tile, gradient=gradient)
    width = -(-batch // blocks)
    padded = jnp.pad(queries, ((0, 0), (0, blocks * width - batch), (0, 0)))
    seen = jax.lax.map(
        lambda block: _walk_rows(block, memory, tile, gradient=gradient),
        padded.reshape(2, blocks, width, dim).swapaxes(0, 1),
    )

    def whole(leaf, axis):
        """Blocks [N, ...] side by side along the axis of the images."""
        leaf = jnp.moveaxis(leaf, 0, axis)
        shape = (*leaf.shape[:axis], blocks * width, *leaf.shape[axis + 2 :])
        return jax.lax.slice_in_dim(leaf.reshape(shape), 0, batch, axis=axis)

    return _Seen(
        whole(seen.top, 1),
        whole(seen.total, 1),
        whole(seen.cross, 0),
        None if seen.mean is None else whole(seen.mean, 1),
    )


def _walk_rows(queries, memory, tile, *, gradient) -> _Seen:
    size, width = len(memory), tile.rows * tile.beside
    steps = -(-size // width)
    # The first chunk is what the others, all of the same size, leave over.
    first = size - (steps - 1) * width
    seen = _of_chunk(queries, memory[:first], None, gradient=gradient)
    if steps == 1:
        return seen

    def add_tile(seen: _Seen, queries: jax.Array, rows: jax.Array) -> _Seen:
        new = _of_chunk(queries, rows, seen.top, gradient=gradient)
        return _sum(_moved(seen, new.top), new)

    def add_chunk(seen: _Seen, step: jax.Array) -> tuple[_Seen, None]:
        rows = jax.lax.dynamic_slice_in_dim(memory, first + step * width, width)
        if tile.beside == 1:
            return add_tile(seen, queries, rows), None
        rows = rows.reshape(tile.beside, tile.rows, -1)
        return jax.vmap(add_tile)(seen, several, rows), None

    if tile.beside == 1:
        return jax.lax.scan(add_chunk, seen, jnp.arange(steps - 1))[0]
    # Behind the barrier they are no longer known to be the same, or all would be one product.
    several = jax.lax.optimization_barrier(jnp.broadcast_to(queries, (tile.beside, *queries.shape)))
    nothing = jax.tree.map(jnp.zeros_like, seen)._replace(top=seen.top)
    each = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (tile.beside, *leaf.shape)), nothing)
    each = jax.lax.scan(add_chunk, each, jnp.arange(steps - 1))[0]
    top = each.top.max(0)
    total = jax.tree.map(lambda leaf: leaf.sum(0), jax.vmap(_moved, (0, None))(each, top))
    return _sum(_moved(seen, top), total._replace(top=top))


def _of_chunk(queries, rows, top, *, gradient) -> _Seen:
    """The sums of a chunk, with the tops of it and of what was seen before."""
    _, batch, dim = queries.shape
    rows = rows.astype(queries.dtype)
    # One product for both: twice as many rows of a matrix are multiplied faster.
    similarities = _product("qd,kd->qk", queries.reshape(-1, dim), rows).reshape(2, batch, -1)
    highest = similarities.max(-1)
    top = highest if top is None else jnp.maximum(top, highest)
    shifted = similarities - top[..., None]
    weights = jnp.exp(shifted)
    mean = None
    if gradient:
        mean = _product("qk,kd->qd", weights.reshape(2 * batch, -1), rows)
        mean = mean.reshape(2, batch, dim)
    return _Seen(top, weights.sum(-1), (weights[1] * shifted[0]).sum(-1), mean)


def _moved(seen: _Seen, top: jax.Array) -> _Seen:
    """The sums in terms of larger tops."""
    scale = jnp.exp(seen.top - top)
    return _Seen(
        top,
        seen.total * scale,
        (seen.cross + seen.total[1] * (seen.top[0] - top[0])) * scale[1],
        None if seen.mean is None else seen.mean * scale[..., None],
    )


def _sum(a: _Seen, b: _Seen) -> _Seen:
    """What two have seen that know the same tops."""
    return _Seen(b.top, *jax.tree.map(jnp.add, a[1:], b[1:]))


def _product(form: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(form, a, b, precision=jax.lax.Precision.HIGHEST)
