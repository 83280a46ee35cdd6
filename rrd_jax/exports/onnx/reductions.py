"""Sums and other reductions: over axes, along an axis, over windows."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from rrd_jax.exports.onnx.elements import cast
from rrd_jax.exports.onnx.graph import Graph, UnsupportedError
from rrd_jax.exports.onnx.places import padded
from rrd_jax.exports.onnx.views import View, arranged, combine, pads_of, reshape, view, whole


def _reduce(name: str, graph: Graph, op: Any, x: View) -> View:
    axes = op.params["axes"]
    if not axes:
        return x
    if any(x.tensor.shape[place] != x.shape[x.order[place]] for place in x.places(axes)):
        x = whole(graph, x)
    places = x.places(axes)
    shape = [size for place, size in enumerate(x.tensor.shape) if place not in places]
    kept = sorted(set(range(len(x.shape))) - set(axes))
    order = tuple(kept.index(axis) for axis in x.order if axis in kept)
    if name == "ReduceSum":  # the only one whose axes are an input
        tensor = graph.add(name, [x.tensor, graph.integers(places)], shape, x.dtype, keepdims=0)
    else:
        tensor = graph.add(name, [x.tensor], shape, x.dtype, axes=places, keepdims=0)
    return View(tensor, order, op.shape)


def _all_or_any(name: str, graph: Graph, op: Any, x: View) -> View:
    if x.dtype != bool:
        raise UnsupportedError("on the bits of numbers")
    return cast(graph, _reduce(name, graph, op, cast(graph, x, np.int32)), bool)


def _place_of(name: str, graph: Graph, op: Any, x: View) -> View:
    """Converts argmax and argmin, with the first index of equal values."""
    (axis,) = op.params["axes"]
    x = whole(graph, x)
    (place,) = x.places([axis])
    shape = [size for i, size in enumerate(x.tensor.shape) if i != place]
    order = tuple(i - (i > axis) for i in x.order if i != axis)
    tensor = graph.add(name, [x.tensor], shape, np.int64, axis=place, keepdims=0)
    return cast(graph, View(tensor, order, op.shape), op.dtype)


def _cumsum(graph: Graph, op: Any, x: View) -> View:
    x = whole(graph, x)
    (place,) = x.places([op.params["axis"]])
    inputs = [x.tensor, graph.constant(np.int64(place))]
    reverse = int(op.params["reverse"])
    tensor = graph.add("CumSum", inputs, x.tensor.shape, x.dtype, reverse=reverse)
    return x._replace(tensor=tensor)


def _top_k(graph: Graph, op: Any, x: View) -> tuple[View, View]:
    axis = op.params.get("axis", -1) % len(x.shape)
    x = whole(graph, x)
    (place,) = x.places([axis])
    shape = list(x.tensor.shape)
    shape[place] = op.params["k"]
    inputs = [x.tensor, graph.integers([op.params["k"]])]
    values, places = graph.add_many(
        "TopK", inputs, [(shape, x.dtype), (shape, np.int64)], axis=place
    )
    indices = View(places, x.order, op.shape)
    return View(values, x.order, op.shape), cast(graph, indices, op.dtypes[1])


def _window(kind: str, graph: Graph, op: Any, x: View) -> View:
    """Max- and average-pooling."""
    sizes, strides = op.params["window_dimensions"], op.params["window_strides"]
    padding, dilation = op.params["padding"], op.params["window_dilation"]
    if any(n != 1 for n in op.params["base_dilation"]):
        raise UnsupportedError("with a dilated input")
    if x.dtype != np.float32:
        raise UnsupportedError("on whole numbers")
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
        x = combine(graph, "Neg", x)
    low = 0.0 if kind == "sum" else -np.inf
    # Readers take less padding than the window is wide, and none below 0.
    spans = [(sizes[i] - 1) * dilation[i] + 1 for i in axes]
    pairs = [padding[i] for i in axes]
    if any(not 0 <= n < span for pair, span in zip(pairs, spans, strict=True) for n in pair):
        x = padded(graph, x, dict(zip(axes, pairs, strict=True)), low)
        pairs = [(0, 0)] * len(axes)
    y = _pool(graph, op.shape, x, axes, pairs, kind, sizes, strides, dilation)
    if kind == "sum":
        y = combine(graph, "Mul", y, float(math.prod(sizes[i] for i in axes)))
    return combine(graph, "Neg", y) if kind == "min" else y


def _pool(
    graph: Graph,
    shape: Sequence[int],
    x: View,
    axes: Sequence[int],
    pairs: Sequence[Sequence[int]],
    kind: str,
    sizes: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> View:
    """Pools an array over some axes, with the other axes joined to two."""
    others = [axis for axis in x.order if axis not in axes]
    x = whole(graph, arranged(graph, x, [*others, *axes]))
    pooled = [shape[axis] for axis in axes]
    before = [x.shape[axis] for axis in others]
    if len(others) == 2:
        source, target = x.tensor, [*before, *pooled]
    else:
        joined = [math.prod(before), 1]
        stored = view(x.tensor)
        source = reshape(graph, stored, [*joined, *(x.shape[axis] for axis in axes)]).tensor
        target = [*joined, *pooled]
    attributes = {
        "kernel_shape": [sizes[axis] for axis in axes],
        "strides": [strides[axis] for axis in axes],
        "pads": pads_of(pairs),
    }
    if kind == "sum":
        attributes["count_include_pad"] = 1
    elif any(dilation[axis] != 1 for axis in axes):
        attributes["dilations"] = [dilation[axis] for axis in axes]
    name = "AveragePool" if kind == "sum" else "MaxPool"
    tensor = graph.add(name, [source], target, x.dtype, **attributes)
    if len(others) != 2:
        tensor = reshape(graph, view(tensor), [*before, *pooled]).tensor
    return View(tensor, (*others, *axes), tuple(shape))


def _any_window(graph: Graph, op: Any, x: View, start: View) -> View:
    """Converts a window reduction by a function, which must be max, min or add."""
    names = [equation.primitive.name for equation in op.params["jaxpr"].eqns]
    kinds = {"max": ("max", -np.inf), "min": ("min", np.inf), "add": ("sum", 0)}
    kind, neutral = kinds.get(names[0], ("", None)) if len(names) == 1 else ("", None)
    if not kind or start.number != neutral:
        raise UnsupportedError(f"with {' and '.join(names)} from {start.number}")
    return _window(kind, graph, op, x)


TABLE: dict[str, Callable[..., Any]] = {
    "reduce_sum": partial(_reduce, "ReduceSum"),
    "reduce_max": partial(_reduce, "ReduceMax"),
    "reduce_min": partial(_reduce, "ReduceMin"),
    "reduce_prod": partial(_reduce, "ReduceProd"),
    "reduce_and": partial(_all_or_any, "ReduceMin"),
    "reduce_or": partial(_all_or_any, "ReduceMax"),
    "argmax": partial(_place_of, "ArgMax"),
    "argmin": partial(_place_of, "ArgMin"),
    "cumsum": _cumsum,
    "top_k": _top_k,
    "reduce_window_sum": partial(_window, "sum"),
    "reduce_window_max": partial(_window, "max"),
    "reduce_window_min": partial(_window, "min"),
    "reduce_window": _any_window,
}
