"""Operators that move elements or change shapes."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax import lax

from rrd_jax.exports.onnx.elements import cast
from rrd_jax.exports.onnx.graph import BATCH, Graph, UnsupportedError
from rrd_jax.exports.onnx.views import (
    View,
    arranged,
    combine,
    constant,
    expanded,
    leading,
    pads_of,
    reshape,
    reshape_tensor,
    whole,
)


def _reshape(graph: Graph, op: Any, x: View) -> View:
    if op.params.get("dimensions") is not None:
        raise UnsupportedError("of transposed axes")
    return reshape(graph, x, op.shape)


def _same_elements(graph: Graph, op: Any, x: View) -> View:
    return reshape(graph, x, op.shape)


def _transpose(graph: Graph, op: Any, x: View) -> View:
    permutation = list(op.params["permutation"])
    return View(x.tensor, tuple(permutation.index(axis) for axis in x.order), op.shape)


def _broadcast(graph: Graph, op: Any, x: View, *_: View) -> View:
    """Adds axes of size 1; an operator that needs the whole array broadcasts it."""
    of = [int(axis) for axis in op.params["broadcast_dimensions"]]
    return expanded(graph, x.tensor, [of[axis] for axis in x.order], x.tensor.shape, op.shape)


def _tile(graph: Graph, op: Any, x: View) -> View:
    pairs = [size for pair in zip(op.params["reps"], x.shape, strict=True) for size in pair]
    split = reshape(graph, x, [1 if i % 2 == 0 else size for i, size in enumerate(pairs)])
    return reshape(graph, split._replace(shape=tuple(pairs)), op.shape)


def _iota(graph: Graph, op: Any) -> View:
    axis = op.params["dimension"]
    shape = [size if i == axis else 1 for i, size in enumerate(op.shape)]
    if op.shape[axis] % BATCH == 0:
        raise UnsupportedError("along the axis of images")
    value = np.arange(op.shape[axis]).astype(op.dtype).reshape(shape)
    return constant(graph, value)._replace(shape=op.shape)


def concatenated(graph: Graph, arrays: Sequence[View], axis: int) -> View:
    """Concatenates arrays along an axis."""
    lead = leading(arrays)
    arrays = [whole(graph, arranged(graph, array, lead.order)) for array in arrays]
    shape = list(lead.shape)
    shape[axis] = sum(array.shape[axis] for array in arrays)
    stored = [shape[i] for i in lead.order]
    tensors, place = [array.tensor for array in arrays], lead.order.index(axis)
    tensor = graph.add("Concat", tensors, stored, lead.dtype, axis=place)
    return View(tensor, lead.order, tuple(shape))


def _concatenate(graph: Graph, op: Any, *arrays: View) -> View:
    return concatenated(graph, arrays, op.params["dimension"])


def _stack(graph: Graph, op: Any, *arrays: View) -> View:
    axis = op.params["axis"]
    shape = [1 if i == axis else size for i, size in enumerate(op.shape)]
    parts = [reshape(graph, array, shape) for array in arrays]
    return concatenated(graph, parts, axis)


def sliced(
    graph: Graph,
    x: View,
    starts: Sequence[int],
    limits: Sequence[int],
    strides: Sequence[int] | None = None,
) -> View:
    """Slices x[starts:limits:strides] along each axis; a stride of -1 goes down to the limit."""
    strides = strides or (1,) * len(starts)
    shape = [
        len(range(start, limit, step)) if limit % BATCH or step < 0 else limit
        for start, limit, step in zip(starts, limits, strides, strict=True)
    ]
    cut = [
        i for i, size in enumerate(x.shape) if (starts[i], limits[i], strides[i]) != (0, size, 1)
    ]
    if any(x.shape[i] % BATCH == 0 for i in cut):
        raise UnsupportedError("along the axis of images")
    places = [place for place in x.places(cut) if x.tensor.shape[place] != 1]
    if not places:
        return x._replace(shape=tuple(shape))
    axes = [x.order[place] for place in places]
    bounds = ([part[axis] for axis in axes] for part in (starts, limits))
    starts, limits = bounds
    limits = [-(2**62) if limit < 0 else limit for limit in limits]
    inputs = [starts, limits, places, [strides[axis] for axis in axes]]
    stored = [
        shape[axis] if place in places else x.tensor.shape[place]
        for place, axis in enumerate(x.order)
    ]
    tensor = graph.add("Slice", [x.tensor, *map(graph.integers, inputs)], stored, x.dtype)
    return View(tensor, x.order, tuple(shape))


def _slice(graph: Graph, op: Any, x: View) -> View:
    params = op.params
    return sliced(graph, x, params["start_indices"], params["limit_indices"], params["strides"])


def _dynamic_slice(graph: Graph, op: Any, x: View, *starts: View) -> View:
    sizes = op.params["slice_sizes"]
    return sliced(graph, x, *_window(x, [start.number for start in starts], sizes))


def _window(
    x: View, starts: Sequence[float | None], sizes: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Returns start and limit of each axis, clamped to the array."""
    if any(start is None for start in starts):
        raise UnsupportedError("at a place that depends on the images")
    low = [min(max(int(s), 0), n - k) for s, n, k in zip(starts, x.shape, sizes, strict=True)]
    return low, [start + size for start, size in zip(low, sizes, strict=True)]


def _reverse(graph: Graph, op: Any, x: View) -> View:
    axes = op.params["dimensions"]
    starts = [size - 1 if axis in axes else 0 for axis, size in enumerate(x.shape)]
    limits = [-1 if axis in axes else size for axis, size in enumerate(x.shape)]
    return sliced(graph, x, starts, limits, [-1 if i in axes else 1 for i in range(len(x.shape))])


def padded(graph: Graph, x: View, pairs: Mapping[int, Sequence[int]], value: float | bool) -> View:
    """Pads an array by (low, high) for each axis; negative numbers crop."""
    pairs = {axis: pair for axis, pair in pairs.items() if tuple(pair) != (0, 0)}
    if any(x.shape[axis] % BATCH == 0 for axis in pairs):
        raise UnsupportedError("along the axis of images")
    starts = [max(-pairs.get(axis, (0, 0))[0], 0) for axis in range(len(x.shape))]
    limits = [
        size - max(-pairs.get(axis, (0, 0))[1], 0) if axis in pairs else size
        for axis, size in enumerate(x.shape)
    ]
    x = sliced(graph, x, starts, limits)
    pairs = {axis: [max(n, 0) for n in pair] for axis, pair in pairs.items()}
    if not any(map(any, pairs.values())):
        return x
    x = whole(graph, x)
    pads = pads_of([pairs.get(axis, (0, 0)) for axis in x.order])
    inputs = [x.tensor, graph.integers(pads), graph.constant(np.asarray(value, x.dtype))]
    shape = tuple(size + sum(pairs.get(axis, (0, 0))) for axis, size in enumerate(x.shape))
    stored = tuple(shape[axis] for axis in x.order)
    return View(graph.add("Pad", inputs, stored, x.dtype, mode="constant"), x.order, shape)


def _pad(graph: Graph, op: Any, x: View, value: View) -> View:
    config = op.params["padding_config"]
    if value.number is None:
        raise UnsupportedError("with a value that depends on the images")
    if any(inner for *_, inner in config):
        raise UnsupportedError("between elements")
    return padded(graph, x, {i: pair[:2] for i, pair in enumerate(config)}, value.number)


def _split(graph: Graph, op: Any, x: View) -> tuple[View, ...]:
    axis, sizes = op.params["axis"], op.params["sizes"]
    x = whole(graph, x)
    (place,) = x.places([axis])
    stored = [tuple(shape[i] for i in x.order) for shape in op.shapes]
    inputs = [x.tensor, graph.integers(sizes)]
    tensors = graph.add_many("Split", inputs, [(s, x.dtype) for s in stored], axis=place)
    return tuple(
        View(*pair) for pair in zip(tensors, [x.order] * len(sizes), op.shapes, strict=True)
    )


def _gather(graph: Graph, op: Any, x: View, indices: View) -> View:
    """Gathers x[indices] for constant indices: one window, or elements along some axes."""
    numbers, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    if indices.value is None or numbers.operand_batching_dims:
        raise UnsupportedError("at places that depend on the images")
    of = list(numbers.start_index_map)
    rows = indices.value.reshape(-1, len(of))
    room = np.array([x.shape[axis] - sizes[axis] for axis in of])
    mode = lax.GatherScatterMode.from_any(op.params["mode"])
    if mode == lax.GatherScatterMode.FILL_OR_DROP and ((rows < 0) | (rows > room)).any():
        raise UnsupportedError("beyond an axis")
    rows = dict(zip(of, np.clip(rows, 0, room).T, strict=True))
    # Axes along which all windows start at the same index are sliced; the others are gathered.
    taken = [axis for axis in of if len(set(rows[axis])) > 1]
    starts = [0 if i in taken or i not in rows else int(rows[i][0]) for i in range(len(x.shape))]
    limits = [size if i in taken else starts[i] + sizes[i] for i, size in enumerate(x.shape)]
    x = sliced(graph, x, starts, limits)
    if not taken:
        return reshape(graph, x, op.shape)
    if not set(taken) <= set(numbers.collapsed_slice_dims):
        raise UnsupportedError("of several windows")
    shape = indices.value.shape[:-1]
    return _taken(graph, op, x, {axis: rows[axis].reshape(shape) for axis in taken})


def _taken(graph: Graph, op: Any, x: View, places: Mapping[int, np.ndarray]) -> View:
    """Gathers elements of x at indices of equal shape along some axes."""
    numbers = op.params["dimension_numbers"]
    kept = [axis for axis in range(len(x.shape)) if axis not in numbers.collapsed_slice_dims]
    dropped = set(numbers.collapsed_slice_dims) - set(places)  # of size 1
    others = [axis for axis in x.order if axis in kept]
    x = whole(graph, arranged(graph, x, [*others, *dropped, *places]))
    extents = [x.shape[axis] for axis in places]
    stored = [x.shape[axis] for axis in others]
    source = reshape_tensor(graph, x.tensor, [*stored, math.prod(extents)])
    flat = np.ravel_multi_index(tuple(places.values()), extents).astype(np.int64)
    inputs, shape = [source, graph.constant(flat)], [*stored, *flat.shape]
    tensor = graph.add("Gather", inputs, shape, x.dtype, axis=len(others))
    offsets = [numbers.offset_dims[kept.index(axis)] for axis in others]
    rest = [axis for axis in range(len(op.shape)) if axis not in numbers.offset_dims]
    return View(tensor, (*offsets, *rest), op.shape)


def _unstack(graph: Graph, op: Any, x: View) -> list[View]:
    axis = op.params["axis"]
    parts = []
    for i in range(x.shape[axis]):
        starts = [i if j == axis else 0 for j in range(len(x.shape))]
        limits = [i + 1 if j == axis else size for j, size in enumerate(x.shape)]
        parts.append(reshape(graph, sliced(graph, x, starts, limits), op.shapes[i]))
    return parts


def _barrier(graph: Graph, op: Any, *arrays: View) -> tuple[View, ...]:
    return arrays


def _update(graph: Graph, op: Any, x: View, part: View, *starts: View) -> View:
    """Replaces a part of x at a constant position."""
    low, high = _window(x, [start.number for start in starts], part.shape)
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
    new = padded(graph, cast(graph, part, x.dtype), pairs, 0)
    return combine(graph, "Where", mask, new, x, dtype=x.dtype)


TABLE: dict[str, Callable[..., Any]] = {
    "reshape": _reshape,
    "squeeze": _same_elements,
    "expand_dims": _same_elements,
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
