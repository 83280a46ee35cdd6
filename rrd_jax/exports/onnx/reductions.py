"""Reductions over axes, cumulative reductions along an axis, and pooling over windows."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from rrd_jax.exports.onnx.elementwise import cast
from rrd_jax.exports.onnx.graph import Graph, UnsupportedError
from rrd_jax.exports.onnx.lazy_arrays import (
    LazyArray,
    add_op,
    broadcast_fully,
    from_tensor,
    onnx_pads,
    reorder,
    reshape,
)
from rrd_jax.exports.onnx.shape_ops import pad


def _reduce(name: str, graph: Graph, op: Any, x: LazyArray) -> LazyArray:
    axes = op.params["axes"]
    if not axes:
        return x
    if any(x.tensor.shape[i] != x.shape[x.order[i]] for i in x.tensor_axes(axes)):
        x = broadcast_fully(graph, x)
    reduced = x.tensor_axes(axes)
    shape = [size for i, size in enumerate(x.tensor.shape) if i not in reduced]
    remaining = sorted(set(range(len(x.shape))) - set(axes))
    order = tuple(remaining.index(axis) for axis in x.order if axis in remaining)
    # In this opset, only ReduceSum takes its axes as an input.
    if name == "ReduceSum":
        tensor = graph.add(name, [x.tensor, graph.integers(reduced)], shape, x.dtype, keepdims=0)
    else:
        tensor = graph.add(name, [x.tensor], shape, x.dtype, axes=reduced, keepdims=0)
    return LazyArray(tensor, order, op.shape)


def _all_or_any(name: str, graph: Graph, op: Any, x: LazyArray) -> LazyArray:
    if x.dtype != bool:
        raise UnsupportedError("on the bits of integers")
    return cast(graph, _reduce(name, graph, op, cast(graph, x, np.int32)), bool)


def _arg_reduce(name: str, graph: Graph, op: Any, x: LazyArray) -> LazyArray:
    """Converts argmax and argmin, which return the first of several equal values."""
    (axis,) = op.params["axes"]
    x = broadcast_fully(graph, x)
    (position,) = x.tensor_axes([axis])
    shape = [size for i, size in enumerate(x.tensor.shape) if i != position]
    order = tuple(i - (i > axis) for i in x.order if i != axis)
    tensor = graph.add(name, [x.tensor], shape, np.int64, axis=position, keepdims=0)
    return cast(graph, LazyArray(tensor, order, op.shape), op.dtype)


def _cumsum(graph: Graph, op: Any, x: LazyArray) -> LazyArray:
    x = broadcast_fully(graph, x)
    (position,) = x.tensor_axes([op.params["axis"]])
    inputs = [x.tensor, graph.constant(np.int64(position))]
    reverse = int(op.params["reverse"])
    tensor = graph.add("CumSum", inputs, x.tensor.shape, x.dtype, reverse=reverse)
    return x._replace(tensor=tensor)


def _top_k(graph: Graph, op: Any, x: LazyArray) -> tuple[LazyArray, LazyArray]:
    axis = op.params.get("axis", -1) % len(x.shape)
    x = broadcast_fully(graph, x)
    (position,) = x.tensor_axes([axis])
    shape = list(x.tensor.shape)
    shape[position] = op.params["k"]
    inputs = [x.tensor, graph.integers([op.params["k"]])]
    values, positions = graph.add_many(
        "TopK", inputs, [(shape, x.dtype), (shape, np.int64)], axis=position
    )
    indices = LazyArray(positions, x.order, op.shape)
    return LazyArray(values, x.order, op.shape), cast(graph, indices, op.dtypes[1])


def _pool_windows(kind: str, graph: Graph, op: Any, x: LazyArray) -> LazyArray:
    """Converts max pooling, min pooling and sums over windows."""
    sizes, strides = op.params["window_dimensions"], op.params["window_strides"]
    padding, dilation = op.params["padding"], op.params["window_dilation"]
    if any(n != 1 for n in op.params["base_dilation"]):
        raise UnsupportedError("with a dilated input")
    if x.dtype != np.float32:
        raise UnsupportedError("on integers")
    axes = [
        i
        for i in range(len(x.shape))
        if (sizes[i], strides[i], tuple(padding[i])) != (1, 1, (0, 0))
    ]
    if not axes:
        return x
    if kind == "sum" and any(dilation[i] != 1 for i in axes):
        raise UnsupportedError("with dilated windows")
    if kind == "min":
        x = add_op(graph, "Neg", x)
    padding_value = 0.0 if kind == "sum" else -np.inf
    # Runtimes require that padding is at least 0 and smaller than the window.
    spans = [(sizes[i] - 1) * dilation[i] + 1 for i in axes]
    pairs = [padding[i] for i in axes]
    if any(not 0 <= n < span for pair, span in zip(pairs, spans, strict=True) for n in pair):
        x = pad(graph, x, dict(zip(axes, pairs, strict=True)), padding_value)
        pairs = [(0, 0)] * len(axes)
    y = _pool(graph, op.shape, x, axes, pairs, kind, sizes, strides, dilation)
    if kind == "sum":
        y = add_op(graph, "Mul", y, float(math.prod(sizes[i] for i in axes)))
    return add_op(graph, "Neg", y) if kind == "min" else y


def _pool(
    graph: Graph,
    shape: Sequence[int],
    x: LazyArray,
    axes: Sequence[int],
    pairs: Sequence[Sequence[int]],
    kind: str,
    sizes: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> LazyArray:
    """Pools an array over `axes`; the other axes are joined to two axes for the operator."""
    others = [axis for axis in x.order if axis not in axes]
    x = broadcast_fully(graph, reorder(graph, x, [*others, *axes]))
    pooled = [shape[axis] for axis in axes]
    batch = [x.shape[axis] for axis in others]
    if len(others) == 2:
        source, target = x.tensor, [*batch, *pooled]
    else:
        joined = [math.prod(batch), 1]
        stored = from_tensor(x.tensor)
        source = reshape(graph, stored, [*joined, *(x.shape[axis] for axis in axes)]).tensor
        target = [*joined, *pooled]
    attributes = {
        "kernel_shape": [sizes[axis] for axis in axes],
        "strides": [strides[axis] for axis in axes],
        "pads": onnx_pads(pairs),
    }
    if kind == "sum":
        attributes["count_include_pad"] = 1
    elif any(dilation[axis] != 1 for axis in axes):
        attributes["dilations"] = [dilation[axis] for axis in axes]
    name = "AveragePool" if kind == "sum" else "MaxPool"
    tensor = graph.add(name, [source], target, x.dtype, **attributes)
    if len(others) != 2:
        tensor = reshape(graph, from_tensor(tensor), [*batch, *pooled]).tensor
    return LazyArray(tensor, (*others, *axes), tuple(shape))


def _any_window(graph: Graph, op: Any, x: LazyArray, start: LazyArray) -> LazyArray:
    """Converts a window reduction with a function, which must be max, min or add."""
    names = [equation.primitive.name for equation in op.params["jaxpr"].eqns]
    kinds = {"max": ("max", -np.inf), "min": ("min", np.inf), "add": ("sum", 0)}
    kind, identity = kinds.get(names[0], ("", None)) if len(names) == 1 else ("", None)
    if not kind or start.scalar != identity:
        raise UnsupportedError(f"with {' and '.join(names)} from {start.scalar}")
    return _pool_windows(kind, graph, op, x)


TABLE: dict[str, Callable[..., Any]] = {
    "reduce_sum": partial(_reduce, "ReduceSum"),
    "reduce_max": partial(_reduce, "ReduceMax"),
    "reduce_min": partial(_reduce, "ReduceMin"),
    "reduce_prod": partial(_reduce, "ReduceProd"),
    "reduce_and": partial(_all_or_any, "ReduceMin"),
    "reduce_or": partial(_all_or_any, "ReduceMax"),
    "argmax": partial(_arg_reduce, "ArgMax"),
    "argmin": partial(_arg_reduce, "ArgMin"),
    "cumsum": _cumsum,
    "top_k": _top_k,
    "reduce_window_sum": partial(_pool_windows, "sum"),
    "reduce_window_max": partial(_pool_windows, "max"),
    "reduce_window_min": partial(_pool_windows, "min"),
    "reduce_window": _any_window,
}
