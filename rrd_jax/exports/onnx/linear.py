"""Convolutions and matrix products."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from rrd_jax.exports.onnx.graph import Graph, Tensor, UnsupportedError
from rrd_jax.exports.onnx.lazy_arrays import (
    LazyArray,
    broadcast_fully,
    from_tensor,
    onnx_pads,
    reshape,
    tensor_in_order,
)
from rrd_jax.exports.onnx.shape_ops import pad


def _convolution(graph: Graph, op: Any, x: LazyArray, kernel: LazyArray) -> LazyArray:
    """Converts a convolution with any layout; the result is stored with channels first."""
    params = op.params
    numbers = params["dimension_numbers"]
    if params["batch_group_count"] != 1:
        raise UnsupportedError("with batch_group_count above 1")
    axes, pads = numbers.lhs_spec[2:], list(map(tuple, params["padding"]))
    if not axes:
        raise UnsupportedError("without spatial axes")
    is_transposed = any(n != 1 for n in params["lhs_dilation"])
    if not is_transposed and any(n < 0 for pair in pads for n in pair):
        x = pad(graph, x, dict(zip(axes, pads, strict=True)), 0.0)
        pads = [(0, 0)] * len(axes)
    x, kernel = broadcast_fully(graph, x), broadcast_fully(graph, kernel)
    source = tensor_in_order(graph, x, numbers.lhs_spec)
    attributes = {"dilations": list(params["rhs_dilation"]), "group": params["feature_group_count"]}
    shape = [op.shape[axis] for axis in numbers.out_spec]
    if is_transposed:
        weight, transposed_attributes = _transposed(graph, params, kernel, pads)
        attributes |= transposed_attributes
    else:
        weight = tensor_in_order(graph, kernel, numbers.rhs_spec)
        attributes["strides"] = list(params["window_strides"])
        attributes["pads"] = onnx_pads(pads)
    attributes["kernel_shape"] = list(weight.shape[2:])
    name = "ConvTranspose" if is_transposed else "Conv"
    tensor = graph.add(name, [source, weight], shape, x.dtype, **attributes)
    return LazyArray(tensor, tuple(numbers.out_spec), op.shape)


def _transposed(
    graph: Graph, params: dict[str, Any], kernel: LazyArray, pads: Sequence[tuple[int, int]]
) -> tuple[Tensor, dict[str, Any]]:
    """Returns weight and attributes of a ConvTranspose, for a convolution of a dilated input."""
    spec, groups = params["dimension_numbers"].rhs_spec, params["feature_group_count"]
    if kernel.value is None or any(n != 1 for n in params["window_strides"]):
        raise UnsupportedError("of a dilated input, with strides or with a computed kernel")
    weight = tensor_in_order(graph, kernel, spec).value
    features, inner, *sizes = weight.shape
    weight = weight.reshape(groups, features // groups, inner, *sizes).swapaxes(1, 2)
    weight = weight.reshape(groups * inner, features // groups, *sizes)
    weight = weight[(slice(None), slice(None), *([slice(None, None, -1)] * len(sizes)))]
    spans = [(n - 1) * d + 1 for n, d in zip(sizes, params["rhs_dilation"], strict=True)]
    crops = [(s - 1 - low, s - 1 - high) for s, (low, high) in zip(spans, pads, strict=True)]
    # Negative crops at the end become output padding.
    attributes = {
        "strides": list(params["lhs_dilation"]),
        "pads": onnx_pads([(low, max(high, 0)) for low, high in crops]),
        "output_padding": [max(-high, 0) for _, high in crops],
    }
    steps = zip(attributes["output_padding"], attributes["strides"], strict=True)
    if any(low < 0 for low, _ in crops) or any(extra >= step for extra, step in steps):
        raise UnsupportedError(f"of a dilated input with padding {list(pads)}")
    return graph.constant(weight), attributes


def _product(graph: Graph, op: Any, left: LazyArray, right: LazyArray) -> LazyArray:
    """Converts a matrix product over any axes.

    A constant becomes the right operand, which preserves the order of the other operand's axes. The
    result is stored with the batch axes first, then the axes of the left operand, then the axes of
    the right operand.
    """
    (left_sums, right_sums), (left_shared, right_shared) = op.params["dimension_numbers"]
    free = [
        [axis for axis in range(len(x.shape)) if axis not in (*sums, *shared)]
        for x, sums, shared in ((left, left_sums, left_shared), (right, right_sums, right_shared))
    ]
    # The result has the shared axes, then the left operand's free axes, then the right operand's.
    shared = list(range(len(left_shared)))
    results = [len(shared) + i for i in range(sum(map(len, free)))]
    results = [results[: len(free[0])], results[len(free[0]) :]]
    if left.value is not None:
        left, right, left_sums, right_sums = right, left, right_sums, left_sums
        left_shared, right_shared = right_shared, left_shared
        free, results = free[::-1], results[::-1]
    left, right = broadcast_fully(graph, left), broadcast_fully(graph, right)
    # The left operand's free axes keep their stored order.
    order = [left.order.index(axis) for axis in free[0]]
    ranks = sorted(range(len(order)), key=order.__getitem__)
    free[0], results[0] = ([axes[i] for i in ranks] for axes in (free[0], results[0]))
    a = tensor_in_order(graph, left, [*left_shared, *free[0], *left_sums])
    b = tensor_in_order(graph, right, [*right_shared, *right_sums, *free[1]])
    rows, columns = ([x.shape[i] for i in f] for x, f in zip((left, right), free, strict=True))
    common = [left.shape[axis] for axis in left_shared]
    inner = math.prod(left.shape[axis] for axis in left_sums)
    # Without shared axes, ONNX's MatMul supports several row axes directly.
    row_sizes = rows if not shared and len(rows) > 1 else [math.prod(rows)]
    a = reshape(graph, from_tensor(a), [*common, *row_sizes, inner]).tensor
    b = reshape(graph, from_tensor(b), [*common, inner, math.prod(columns)]).tensor
    shape = [*common, *row_sizes, math.prod(columns)]
    tensor = graph.add("MatMul", [a, b], shape, op.dtype)
    tensor = reshape(graph, from_tensor(tensor), [*common, *rows, *columns]).tensor
    return LazyArray(tensor, (*shared, *results[0], *results[1]), op.shape)


TABLE: dict[str, Callable[..., LazyArray]] = {
    "conv_general_dilated": _convolution,
    "dot_general": _product,
}
