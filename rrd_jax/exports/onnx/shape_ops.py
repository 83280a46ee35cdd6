"""Operators that change shapes or move elements."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax import lax

from rrd_jax.exports.onnx.elementwise import cast
from rrd_jax.exports.onnx.graph import BATCH, Graph, UnsupportedError
from rrd_jax.exports.onnx.lazy_arrays import (
    LazyArray,
    add_op,
    broadcast_fully,
    constant,
    insert_axes,
    onnx_pads,
    reference_array,
    reorder,
    reshape,
    reshape_tensor,
)


def _reshape(graph: Graph, op: Any, x: LazyArray) -> LazyArray:
    if op.params.get("dimensions") is not None:
        raise UnsupportedError("of transposed axes")
    return reshape(graph, x, op.shape)


def _squeeze_or_expand(graph: Graph, op: Any, x: LazyArray) -> LazyArray:
    return reshape(graph, x, op.shape)


def _transpose(graph: Graph, op: Any, x: LazyArray) -> LazyArray:
    permutation = list(op.params["permutation"])
    return LazyArray(x.tensor, tuple(permutation.index(axis) for axis in x.order), op.shape)


def _broadcast(graph: Graph, op: Any, x: LazyArray, *_: LazyArray) -> LazyArray:
    """Adds axes of size 1, and leaves the broadcast to operators that need all elements."""
    targets = [int(axis) for axis in op.params["broadcast_dimensions"]]
    order = [targets[axis] for axis in x.order]
    return insert_axes(graph, x.tensor, order, x.tensor.shape, op.shape)


def _tile(graph: Graph, op: Any, x: LazyArray) -> LazyArray:
    pairs = [size for pair in zip(op.params["reps"], x.shape, strict=True) for size in pair]
    split = reshape(graph, x, [1 if i % 2 == 0 else size for i, size in enumerate(pairs)])
    return reshape(graph, split._replace(shape=tuple(pairs)), op.shape)


def _iota(graph: Graph, op: Any) -> LazyArray:
    axis = op.params["dimension"]
    shape = [size if i == axis else 1 for i, size in enumerate(op.shape)]
    if op.shape[axis] % BATCH == 0:
        raise UnsupportedError("along the batch axis")
    value = np.arange(op.shape[axis]).astype(op.dtype).reshape(shape)
    return constant(graph, value)._replace(shape=op.shape)


def concatenate(graph: Graph, arrays: Sequence[LazyArray], axis: int) -> LazyArray:
    """Concatenates arrays along an axis."""
    reference = reference_array(arrays)
    arrays = [broadcast_fully(graph, reorder(graph, array, reference.order)) for array in arrays]
    shape = list(reference.shape)
    shape[axis] = sum(array.shape[axis] for array in arrays)
    stored = [shape[i] for i in reference.order]
    tensors, position = [array.tensor for array in arrays], reference.order.index(axis)
    tensor = graph.add("Concat", tensors, stored, reference.dtype, axis=position)
    return LazyArray(tensor, reference.order, tuple(shape))


def _concatenate(graph: Graph, op: Any, *arrays: LazyArray) -> LazyArray:
    return concatenate(graph, arrays, op.params["dimension"])


def _stack(graph: Graph, op: Any, *arrays: LazyArray) -> LazyArray:
    axis = op.params["axis"]
    shape = [1 if i == axis else size for i, size in enumerate(op.shape)]
    parts = [reshape(graph, array, shape) for array in arrays]
    return concatenate(graph, parts, axis)


def slice_array(
    graph: Graph,
    x: LazyArray,
    starts: Sequence[int],
    limits: Sequence[int],
    strides: Sequence[int] | None = None,
) -> LazyArray:
    """Slices x[start:limit:stride] along each axis; a stride of -1 counts down to the limit."""
    strides = strides or (1,) * len(starts)
    shape = [
        len(range(start, limit, step)) if limit % BATCH or step < 0 else limit
        for start, limit, step in zip(starts, limits, strides, strict=True)
    ]
    cut = [
        i for i, size in enumerate(x.shape) if (starts[i], limits[i], strides[i]) != (0, size, 1)
    ]
    if any(x.shape[i] % BATCH == 0 for i in cut):
        raise UnsupportedError("along the batch axis")
    positions = [i for i in x.tensor_axes(cut) if x.tensor.shape[i] != 1]
    if not positions:
        return x._replace(shape=tuple(shape))
    axes = [x.order[i] for i in positions]
    bounds = ([part[axis] for axis in axes] for part in (starts, limits))
    starts, limits = bounds
    limits = [-(2**62) if limit < 0 else limit for limit in limits]
    inputs = [starts, limits, positions, [strides[axis] for axis in axes]]
    stored = [
        shape[axis] if i in positions else x.tensor.shape[i] for i, axis in enumerate(x.order)
    ]
    tensor = graph.add("Slice", [x.tensor, *map(graph.integers, inputs)], stored, x.dtype)
    return LazyArray(tensor, x.order, tuple(shape))


def _slice(graph: Graph, op: Any, x: LazyArray) -> LazyArray:
    params = op.params
    return slice_array(
        graph, x, params["start_indices"], params["limit_indices"], params["strides"]
    )


def _dynamic_slice(graph: Graph, op: Any, x: LazyArray, *starts: LazyArray) -> LazyArray:
    sizes = op.params["slice_sizes"]
    return slice_array(graph, x, *_window_bounds(x, [start.scalar for start in starts], sizes))


def _window_bounds(
    x: LazyArray, starts: Sequence[float | None], sizes: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Returns the start and the limit of a window along each axis, clamped to the array."""
    if any(start is None for start in starts):
        raise UnsupportedError("at a position that depends on the images")
    low = [min(max(int(s), 0), n - k) for s, n, k in zip(starts, x.shape, sizes, strict=True)]
    return low, [start + size for start, size in zip(low, sizes, strict=True)]


def _reverse(graph: Graph, op: Any, x: LazyArray) -> LazyArray:
    axes = op.params["dimensions"]
    starts = [size - 1 if axis in axes else 0 for axis, size in enumerate(x.shape)]
    limits = [-1 if axis in axes else size for axis, size in enumerate(x.shape)]
    return slice_array(
        graph, x, starts, limits, [-1 if i in axes else 1 for i in range(len(x.shape))]
    )


def pad(
    graph: Graph, x: LazyArray, pairs: Mapping[int, Sequence[int]], value: float | bool
) -> LazyArray:
    """Pads an array by (low, high) along each axis; negative numbers crop."""
    pairs = {axis: pair for axis, pair in pairs.items() if tuple(pair) != (0, 0)}
    if any(x.shape[axis] % BATCH == 0 for axis in pairs):
        raise UnsupportedError("along the batch axis")
    starts = [max(-pairs.get(axis, (0, 0))[0], 0) for axis in range(len(x.shape))]
    limits = [
        size - max(-pairs.get(axis, (0, 0))[1], 0) if axis in pairs else size
        for axis, size in enumerate(x.shape)
    ]
    x = slice_array(graph, x, starts, limits)
    pairs = {axis: [max(n, 0) for n in pair] for axis, pair in pairs.items()}
    if not any(map(any, pairs.values())):
        return x
    x = broadcast_fully(graph, x)
    pads = onnx_pads([pairs.get(axis, (0, 0)) for axis in x.order])
    inputs = [x.tensor, graph.integers(pads), graph.constant(np.asarray(value, x.dtype))]
    shape = tuple(size + sum(pairs.get(axis, (0, 0))) for axis, size in enumerate(x.shape))
    stored = tuple(shape[axis] for axis in x.order)
    return LazyArray(graph.add("Pad", inputs, stored, x.dtype, mode="constant"), x.order, shape)


def _pad(graph: Graph, op: Any, x: LazyArray, value: LazyArray) -> LazyArray:
    config = op.params["padding_config"]
    if value.scalar is None:
        raise UnsupportedError("with a value that depends on the images")
    if any(inner for *_, inner in config):
        raise UnsupportedError("with interior padding")
    return pad(graph, x, {i: pair[:2] for i, pair in enumerate(config)}, value.scalar)


def _split(graph: Graph, op: Any, x: LazyArray) -> tuple[LazyArray, ...]:
    axis, sizes = op.params["axis"], op.params["sizes"]
    x = broadcast_fully(graph, x)
    (position,) = x.tensor_axes([axis])
    stored = [tuple(shape[i] for i in x.order) for shape in op.shapes]
    inputs = [x.tensor, graph.integers(sizes)]
    tensors = graph.add_many("Split", inputs, [(s, x.dtype) for s in stored], axis=position)
    return tuple(
        LazyArray(*pair) for pair in zip(tensors, [x.order] * len(sizes), op.shapes, strict=True)
    )


def _gather(graph: Graph, op: Any, x: LazyArray, indices: LazyArray) -> LazyArray:
    """Gathers x[indices] for constant indices: a single window, or elements along some axes."""
    numbers, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    if indices.value is None or numbers.operand_batching_dims:
        raise UnsupportedError("at positions that depend on the images")
    indexed = list(numbers.start_index_map)
    rows = indices.value.reshape(-1, len(indexed))
    last = np.array([x.shape[axis] - sizes[axis] for axis in indexed])
    mode = lax.GatherScatterMode.from_any(op.params["mode"])
    if mode == lax.GatherScatterMode.FILL_OR_DROP and ((rows < 0) | (rows > last)).any():
        raise UnsupportedError("with indices that are out of bounds")
    rows = dict(zip(indexed, np.clip(rows, 0, last).T, strict=True))
    # Axes along which all windows start at the same index are sliced, all other axes are gathered.
    gathered = [axis for axis in indexed if len(set(rows[axis])) > 1]
    starts = [0 if i in gathered or i not in rows else int(rows[i][0]) for i in range(len(x.shape))]
    limits = [size if i in gathered else starts[i] + sizes[i] for i, size in enumerate(x.shape)]
    x = slice_array(graph, x, starts, limits)
    if not gathered:
        return reshape(graph, x, op.shape)
    if not set(gathered) <= set(numbers.collapsed_slice_dims):
        raise UnsupportedError("of several windows")
    shape = indices.value.shape[:-1]
    return _gather_elements(graph, op, x, {axis: rows[axis].reshape(shape) for axis in gathered})


def _gather_elements(
    graph: Graph, op: Any, x: LazyArray, indices: Mapping[int, np.ndarray]
) -> LazyArray:
    """Gathers elements of x at index arrays of equal shape, one array per indexed axis."""
    numbers = op.params["dimension_numbers"]
    offset_axes = [axis for axis in range(len(x.shape)) if axis not in numbers.collapsed_slice_dims]
    # The slice before this call has reduced these axes to size 1.
    sliced_axes = set(numbers.collapsed_slice_dims) - set(indices)
    others = [axis for axis in x.order if axis in offset_axes]
    x = broadcast_fully(graph, reorder(graph, x, [*others, *sliced_axes, *indices]))
    extents = [x.shape[axis] for axis in indices]
    stored = [x.shape[axis] for axis in others]
    source = reshape_tensor(graph, x.tensor, [*stored, math.prod(extents)])
    flat = np.ravel_multi_index(tuple(indices.values()), extents).astype(np.int64)
    inputs, shape = [source, graph.constant(flat)], [*stored, *flat.shape]
    tensor = graph.add("Gather", inputs, shape, x.dtype, axis=len(others))
    offsets = [numbers.offset_dims[offset_axes.index(axis)] for axis in others]
    rest = [axis for axis in range(len(op.shape)) if axis not in numbers.offset_dims]
    return LazyArray(tensor, (*offsets, *rest), op.shape)


def _unstack(graph: Graph, op: Any, x: LazyArray) -> list[LazyArray]:
    axis = op.params["axis"]
    parts = []
    for i in range(x.shape[axis]):
        starts = [i if j == axis else 0 for j in range(len(x.shape))]
        limits = [i + 1 if j == axis else size for j, size in enumerate(x.shape)]
        parts.append(reshape(graph, slice_array(graph, x, starts, limits), op.shapes[i]))
    return parts


def _barrier(graph: Graph, op: Any, *arrays: LazyArray) -> tuple[LazyArray, ...]:
    return arrays


def _update(graph: Graph, op: Any, x: LazyArray, part: LazyArray, *starts: LazyArray) -> LazyArray:
    """Replaces a window of x at a constant position."""
    low, high = _window_bounds(x, [start.scalar for start in starts], part.shape)
    pairs = {
        axis: (low[axis], size - high[axis])
        for axis, size in enumerate(x.shape)
        if (low[axis], high[axis]) != (0, size)
    }
    inside = np.zeros([1 if size % BATCH == 0 else size for size in x.shape], bool)
    inside[
        tuple(slice(low[i], high[i]) if i in pairs else slice(None) for i in range(inside.ndim))
    ] = 1
    mask = constant(graph, inside)._replace(shape=x.shape)
    new = pad(graph, cast(graph, part, x.dtype), pairs, 0)
    return add_op(graph, "Where", mask, new, x, dtype=x.dtype)


TABLE: dict[str, Callable[..., Any]] = {
    "reshape": _reshape,
    "squeeze": _squeeze_or_expand,
    "expand_dims": _squeeze_or_expand,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "tile": _tile,
    "iota": _iota,
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _update,
    "rev": _reverse,
    "pad": _pad,
    "split": _split,
    "gather": _gather,
    "optimization_barrier": _barrier,
}
