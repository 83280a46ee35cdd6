"""Cross-entropy of relations to a memory: two attentions over its rows, in one pass.

With z a student's and u a teacher's query, each divided by its temperature, and A(q) the mean of
the rows weighted by softmax_k(q . m_k):

    loss = logsumexp_k(z . m_k) - z . A(u),   its gradient for z = A(z) - A(u)

Both are computed in one pass over the rows, without an array of [B, K]. An additional row per image
is merged at the end. On a TPU, arithmetic is the bottleneck while arrays of [B, K] fit into memory;
`direct` needs less arithmetic and is used there.
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
    """The largest block of images and memory rows that are compared at once.

    Attributes:
      images: maximal number of images.
      rows: number of memory rows.
      parallel: number of tiles that are computed in parallel, for the same images and consecutive
        blocks of rows.
    """

    images: int
    rows: int
    parallel: int = 1


# A tile of similarities stays in a core's cache: from 128 to 1 024 rows the time varies by less
# than a tenth, and all rows at once take twice as long.
_CPU = _Tile(images=256, rows=256)
# The products of one tile are too small to be divided over cores: a batch of several tiles takes
# 0.7 to 0.9 of the time on two cores, and 1.04 to 1.1 on one.
_CPUS = _Tile(images=256, rows=256, parallel=4)
# Similarities of a tile on other platforms, 8 MiB: there, launches cost more than memory.
_SIMILARITIES = 2**21
_MOST_IMAGES, _LEAST_ROWS, _MOST_ROWS = 4096, 128, 2**14
# Similarities of the direct form, 32 MiB; the on-chip memory of a v5e holds four times as many.
_MAX_DIRECT = 2**23


class _Statistics(NamedTuple):
    """Running softmax statistics over the rows processed so far.

    Queries are [2, B], the student's and the teacher's; s denotes a similarity. A value computed
    from `total` and `mean` alone would be the difference of two nearly equal numbers, hence
    `cross`.

    Attributes:
      top: [2, B], the largest s.
      total: [2, B], the sum of exp(s - top).
      cross: [B], the sum over the rows of exp(t - top_t) (s - top_s), with t the teacher's and s
        the student's similarity.
      mean: [2, B, D], the sum of exp(s - top) row; None if no gradient is needed.
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
    own_rows: jax.Array | None = None,
    chunk: int | None = None,
    mesh: AbstractMesh | None = None,
    precision: str = "highest",
    reach: float | None = None,
) -> jax.Array:
    """Computes - sum_k softmax_k(teacher . m_k) log softmax_k(student . m_k).

    The gradient for `student` is computed in the same pass; the other arrays are constants.

    Args:
      student: [B, D].
      teacher: [B, D].
      memory: [K, D].
      own_rows: [B, D], an additional row per image, compared with that image only; None for none.
      chunk: number of rows that are compared at once; 0 for all, None for the platform's default.
      mesh: devices that share the work. If their number divides K, each device processes its shard
        of the rows, and one small reduction merges the results; if it divides B only, each device
        processes its shard of the images. None for one device, or to leave the partitioning to the
        compiler.
      precision: precision of the gradient's product on a TPU: "high" for three passes of bfloat16,
        "highest" for full float32. All other products are full float32. Used if chunk is None and
        there are at most 2^23 similarities on each device.
      reach: bound on the similarities, see `direct.losses`; used in the same case.

    Returns:
      [B], in nats, float32 or wider.
    """
    arrays = (student, teacher, memory, own_rows)
    return _losses(*arrays, chunk, mesh, precision, reach, gradient=False)[0]


def _forward(student, teacher, memory, own_rows, chunk, mesh, precision, reach):
    arrays = (student, teacher, memory, own_rows)
    losses, direction = _losses(*arrays, chunk, mesh, precision, reach, gradient=True)
    return losses, direction.astype(student.dtype)


def _backward(chunk, mesh, precision, reach, direction, gradient):
    del chunk, mesh, precision, reach
    return (gradient[:, None] * direction).astype(direction.dtype), None, None, None


cross_entropy.defvjp(_forward, _backward)


def context_mesh() -> AbstractMesh | None:
    """Returns the mesh in the context of the trace if it has Auto axes, else None."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if auto_axes(mesh) else None


def auto_axes(mesh: AbstractMesh) -> tuple[str, ...]:
    """Returns the Auto axes of a mesh: neither Explicit nor Manual, as in a `shard_map`."""
    return tuple(
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == AxisType.Auto
    )


def _losses(student, teacher, memory, own_rows, chunk, mesh, precision, reach, *, gradient):
    """Returns losses [B], and their gradient [B, D] or None."""

    def in_chunks(student, teacher, own_rows, memory, axes=()):
        statistics = _scan_memory(student, teacher, memory, chunk=chunk, gradient=gradient)
        statistics = _reduced(statistics, axes) if axes else statistics
        if own_rows is not None:
            statistics = _with_own_rows(statistics, student, teacher, own_rows)
        return _finish(statistics)

    def compare(student, teacher, own_rows, memory, axes=()):
        arrays = (student, teacher, own_rows, memory)
        chunked = functools.partial(in_chunks, axes=axes)
        if chunk is not None or 2 * len(student) * len(memory) > _MAX_DIRECT:
            return chunked(*arrays)
        shares = jax.lax.Precision[precision.upper()]
        at_once = functools.partial(
            direct.losses, gradient=gradient, shares=shares, axes=axes, reach=reach
        )
        return jax.lax.platform_dependent(*arrays, tpu=at_once, default=chunked)

    arrays = (student, teacher, own_rows, memory)
    axes = auto_axes(mesh) if mesh else ()
    count = math.prod(mesh.shape[axis] for axis in axes)
    replicated, sharded = PartitionSpec(), PartitionSpec(axes)
    if count == 1 or (len(memory) % count and len(student) % count):
        return compare(*arrays)
    shard = functools.partial(jax.shard_map, mesh=mesh, axis_names=set(axes))
    if len(memory) % count:
        specs = (sharded, sharded, sharded, replicated)
        mapped = shard(compare, in_specs=specs, out_specs=sharded)
    else:
        specs = (replicated, replicated, replicated, sharded)
        reducing = functools.partial(compare, axes=axes)
        mapped = shard(reducing, in_specs=specs, out_specs=replicated)
    return mapped(*arrays)


def _finish(statistics: _Statistics) -> tuple[jax.Array, jax.Array | None]:
    losses = jnp.log(statistics.total[0]) - statistics.cross / statistics.total[1]
    if statistics.mean is None:
        return losses, None
    attention = statistics.mean / statistics.total[..., None]
    return losses, attention[0] - attention[1]


def _with_own_rows(statistics: _Statistics, student, teacher, own_rows) -> _Statistics:
    """Returns the statistics including one additional row per image."""
    own_rows = own_rows.astype(statistics.top.dtype)
    queries = jnp.stack([student, teacher]).astype(own_rows.dtype)
    similarities = _product("qbd,bd->qb", queries, own_rows)
    mean = None if statistics.mean is None else jnp.broadcast_to(own_rows, queries.shape)
    added = _Statistics(
        similarities, jnp.ones_like(similarities), jnp.zeros_like(statistics.cross), mean
    )
    top = jnp.maximum(statistics.top, similarities)
    return _merged(_rescaled(statistics, top), _rescaled(added, top))


def _reduced(statistics: _Statistics, axes: tuple[str, ...]) -> _Statistics:
    """Returns the statistics merged over all devices."""
    top = jax.lax.pmax(statistics.top, axes)
    sums = jax.lax.psum(_rescaled(statistics, top)[1:], axes)
    return _Statistics(top, *sums)


def _scan_memory(student, teacher, memory, *, chunk, gradient) -> _Statistics:
    """Returns the statistics over all rows, in tiles that suit the platform."""
    dtype = jnp.result_type(student, teacher, memory, jnp.float32)
    queries = jnp.stack([student.astype(dtype), teacher.astype(dtype)])
    if chunk is not None:
        tile = _Tile(_MOST_IMAGES, chunk or len(memory))
        return _scan_blocks(queries, memory, tile, gradient=gradient)
    rows = min(max(_SIMILARITIES // (2 * len(student)), _LEAST_ROWS), _MOST_ROWS)
    return jax.lax.platform_dependent(
        queries,
        memory,
        cpu=functools.partial(
            _scan_blocks, tile=_CPUS if convolutions.cores() > 1 else _CPU, gradient=gradient
        ),
        default=functools.partial(_scan_blocks, tile=_Tile(_MOST_IMAGES, rows), gradient=gradient),
    )


def _scan_blocks(queries, memory, tile, *, gradient) -> _Statistics:
    """Returns the statistics over all rows, one block of images after another.

    The statistics of one block stay in a core's cache.
    """
    _, batch, dim = queries.shape
    blocks = -(-batch // tile.images)
    if blocks <= 1:
        return _scan_rows(queries, memory, tile, gradient=gradient)
    width = -(-batch // blocks)
    padded = jnp.pad(queries, ((0, 0), (0, blocks * width - batch), (0, 0)))
    statistics = jax.lax.map(
        lambda block: _scan_rows(block, memory, tile, gradient=gradient),
        padded.reshape(2, blocks, width, dim).swapaxes(0, 1),
    )

    def concatenated(leaf, axis):
        """Concatenates blocks [N, ...] along the axis of the images."""
        leaf = jnp.moveaxis(leaf, 0, axis)
        shape = (*leaf.shape[:axis], blocks * width, *leaf.shape[axis + 2 :])
        return jax.lax.slice_in_dim(leaf.reshape(shape), 0, batch, axis=axis)

    return _Statistics(
        concatenated(statistics.top, 1),
        concatenated(statistics.total, 1),
        concatenated(statistics.cross, 0),
        None if statistics.mean is None else concatenated(statistics.mean, 1),
    )


def _scan_rows(queries, memory, tile, *, gradient) -> _Statistics:
    size, width = len(memory), tile.rows * tile.parallel
    steps = -(-size // width)
    # The first chunk holds the remainder, so that all later chunks have one size.
    first = size - (steps - 1) * width
    statistics = _chunk_statistics(queries, memory[:first], None, gradient=gradient)
    if steps == 1:
        return statistics

    def add_tile(statistics: _Statistics, queries: jax.Array, rows: jax.Array) -> _Statistics:
        new = _chunk_statistics(queries, rows, statistics.top, gradient=gradient)
        return _merged(_rescaled(statistics, new.top), new)

    def add_chunk(statistics: _Statistics, step: jax.Array) -> tuple[_Statistics, None]:
        rows = jax.lax.dynamic_slice_in_dim(memory, first + step * width, width)
        if tile.parallel == 1:
            return add_tile(statistics, queries, rows), None
        rows = rows.reshape(tile.parallel, tile.rows, -1)
        return jax.vmap(add_tile)(statistics, copies, rows), None

    if tile.parallel == 1:
        return jax.lax.scan(add_chunk, statistics, jnp.arange(steps - 1))[0]
    # The barrier hides that the copies are equal: otherwise XLA would merge the tiles into one
    # product.
    copies = jax.lax.optimization_barrier(
        jnp.broadcast_to(queries, (tile.parallel, *queries.shape))
    )
    zeros = jax.tree.map(jnp.zeros_like, statistics)._replace(top=statistics.top)
    partial = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (tile.parallel, *leaf.shape)), zeros)
    partial = jax.lax.scan(add_chunk, partial, jnp.arange(steps - 1))[0]
    top = partial.top.max(0)
    total = jax.tree.map(lambda leaf: leaf.sum(0), jax.vmap(_rescaled, (0, None))(partial, top))
    return _merged(_rescaled(statistics, top), total._replace(top=top))


def _chunk_statistics(queries, rows, top, *, gradient) -> _Statistics:
    """Returns the statistics of a chunk, relative to the maximum of `top` and the chunk's own."""
    _, batch, dim = queries.shape
    rows = rows.astype(queries.dtype)
    # One product for both networks: a matrix with twice as many rows is multiplied faster.
    similarities = _product("qd,kd->qk", queries.reshape(-1, dim), rows).reshape(2, batch, -1)
    highest = similarities.max(-1)
    top = highest if top is None else jnp.maximum(top, highest)
    shifted = similarities - top[..., None]
    weights = jnp.exp(shifted)
    mean = None
    if gradient:
        mean = _product("qk,kd->qd", weights.reshape(2 * batch, -1), rows)
        mean = mean.reshape(2, batch, dim)
    return _Statistics(top, weights.sum(-1), (weights[1] * shifted[0]).sum(-1), mean)


def _rescaled(statistics: _Statistics, top: jax.Array) -> _Statistics:
    """Returns the statistics relative to a larger maximum."""
    scale = jnp.exp(statistics.top - top)

    return _Statistics(
        top,
        statistics.total * scale,
        (statistics.cross + statistics.total[1] * (statistics.top[0] - top[0])) * scale[1],
        None if statistics.mean is None else statistics.mean * scale[..., None],
    )


def _merged(a: _Statistics, b: _Statistics) -> _Statistics:
    """Merges the statistics of two chunks that share a maximum."""
    return _Statistics(b.top, *jax.tree.map(jnp.add, a[1:], b[1:]))


def _product(form: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(form, a, b, precision=jax.lax.Precision.HIGHEST)
