"""Convolutions and matrix products."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from rrd_jax.exports.onnx.graph import Graph, Tensor, UnsupportedError
from rrd_jax.exports.onnx.places import padded
from rrd_jax.exports.onnx.views import View, arrange, pads_of, reshape, view, whole


def _convolution(graph: Graph, op: Any, x: View, kernel: View) -> View:
    """Converts a convolution of any layout; the result is stored with channels first."""
    params = op.params
    numbers = params["dimension_numbers"]
    if params["batch_group_count"] != 1:
        raise UnsupportedError("with groups of images")
    axes, pads = numbers.lhs_spec[2:], list(map(tuple, params["padding"]))
    if not axes:
        raise UnsupportedError("without places")
    grown = any(n != 1 for n in params["lhs_dilation"])
    if not grown and any(n < 0 for pair in pads for n in pair):
        x = padded(graph, x, dict(zip(axes, pads, strict=True)), 0.0)
        pads = [(0, 0)] * len(axes)
    x, kernel = whole(graph, x), whole(graph, kernel)
    source = arrange(graph, x, numbers.lhs_spec)
    attributes = {"dilations": list(params["rhs_dilation"]), "group": params["feature_group_count"]}
    shape = [op.shape[axis] for axis in numbers.out_spec]
    if grown:
        weight, more = _transposed(graph, params, kernel, pads)
        attributes |= more
    else:
        weight = arrange(graph, kernel, numbers.rhs_spec)
        attributes["strides"] = list(params["window_strides"])
        attributes["pads"] = pads_of(pads)
    attributes["kernel_shape"] = list(weight.shape[2:])
    name = "ConvTranspose" if grown else "Conv"
    tensor = graph.add(name, [source, weight], shape, x.dtype, **attributes)
    return View(tensor, tuple(numbers.out_spec), op.shape)


def _transposed(
    graph: Graph, params: dict[str, Any], kernel: View, pads: Sequence[tuple[int, int]]
) -> tuple[Tensor, dict[str, Any]]:
    """Returns weight and attributes of the ConvTranspose for a convolution of a dilated input."""
    spec, groups = params["dimension_numbers"].rhs_spec, params["feature_group_count"]
    if kernel.value is None or any(n != 1 for n in params["window_strides"]):
        raise UnsupportedError("of a dilated input, with strides or a kernel of the images")
    weight = arrange(graph, kernel, spec).value
    features, inner, *sizes = weight.shape
    weight = weight.reshape(groups, features // groups, inner, *sizes).swapaxes(1, 2)
    weight = weight.reshape(groups * inner, features // groups, *sizes)
    weight = weight[(slice(None), slice(None), *([slice(None, None, -1)] * len(sizes)))]
    spans = [(n - 1) * d + 1 for n, d in zip(sizes, params["rhs_dilation"], strict=True)]
    cut = [(s - 1 - low, s - 1 - high) for s, (low, high) in zip(spans, pads, strict=True)]
    # Negative crops at the end become output padding.
    attributes = {
        "strides": list(params["lhs_dilation"]),
        "pads": pads_of([(low, max(high, 0)) for low, high in cut]),
        "output_padding": [max(-high, 0) for _, high in cut],
    }
    steps = zip(attributes["output_padding"], attributes["strides"], strict=True)
    if any(low < 0 for low, _ in cut) or any(more >= step for more, step in steps):
        raise UnsupportedError("of a dilated input with that padding")
    return graph.constant(weight), attributes


def _product(graph: Graph, op: Any, left: View, right: View) -> View:
    """Converts a matrix product over any axes.

    A constant becomes the right operand, so that the other operand's axes keep their order. The
    result is stored with the batch axes first, then those of the left, then of the right operand.
    """
    (left_sums, right_sums), (left_shared, right_shared) = op.params["dimension_numbers"]
    free = [
        [axis for axis in range(len(x.shape)) if axis not in (*sums, *shared)]
        for x, sums, shared in ((left, left_sums, left_shared), (right, right_sums, right_shared))
    ]
    # Axes of the result: the shared ones, then the free ones of the left, then of the right.
    shared = list(range(len(left_shared)))
    places = [len(shared) + i for i in range(sum(map(len, free)))]
    places = [places[: len(free[0])], places[len(free[0]) :]]
    if left.value is not None:
        left, right, left_sums, right_sums = right, left, right_sums, left_sums
        left_shared, right_shared = right_shared, left_shared
        free, places = free[::-1], places[::-1]
    left, right = whole(graph, left), whole(graph, right)
    order = [left.order.index(axis) for axis in free[0]]
    moved = sorted(range(len(order)), key=order.__getitem__)  # as they are stored
    free[0], places[0] = ([part[i] for i in moved] for part in (free[0], places[0]))
    a = arrange(graph, left, [*left_shared, *free[0], *left_sums])
    b = arrange(graph, right, [*right_shared, *right_sums, *free[1]])
    rows, columns = ([x.shape[i] for i in f] for x, f in zip((left, right), free, strict=True))
    common = [left.shape[axis] for axis in left_shared]
    inner = math.prod(left.shape[axis] for axis in left_sums)
    # Without shared axes, the rows may have several: ONNX's MatMul takes them as they are.
    kept = rows if not shared and len(rows) > 1 else [math.prod(rows)]
    a = reshape(graph, view(a), [*common, *kept, inner]).tensor
    b = reshape(graph, view(b), [*common, inner, math.prod(columns)]).tensor
    shape = [*common, *kept, math.prod(columns)]
    tensor = graph.add("MatMul", [a, b], shape, op.dtype)
    tensor = reshape(graph, view(tensor), [*common, *rows, *columns]).tensor
    return View(tensor, (*shared, *places[0], *places[1]), op.shape)


TABLE: dict[str, Callable[..., View]] = {
    "conv_general_dilated": _convolution,
    "dot_general": _product,
}
