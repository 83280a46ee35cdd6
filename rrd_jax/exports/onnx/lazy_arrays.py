"""Lazy arrays: JAX arrays stored as graph tensors, with pending transpositions and broadcasts.

JAX's images have their channels last, ONNX's first. An array is therefore stored in the order of
axes that its operator produces, and is transposed only if an operator needs another order.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rrd_jax.exports.onnx.graph import BATCH, Graph, Tensor, UnsupportedError


class LazyArray(NamedTuple):
    """A JAX array and the graph tensor that stores its elements.

    Attributes:
      tensor: the stored elements; size 1 along axes that still have to be broadcast.
      order: for each axis of the tensor, the corresponding axis of the array.
      shape: shape of the JAX array.
    """

    tensor: Tensor
    order: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def value(self) -> Any:
        """The stored value of a constant; None for a computed array."""
        return self.tensor.value

    @property
    def dtype(self) -> np.dtype:
        """The element type."""
        return self.tensor.dtype

    def tensor_axes(self, axes: Sequence[int]) -> list[int]:
        """Returns the axes of the tensor that store these axes of the array, sorted."""
        return [position for position, axis in enumerate(self.order) if axis in set(axes)]

    @property
    def needs_broadcast(self) -> bool:
        """True if the tensor has to be broadcast along some axis."""
        return self.tensor.shape != tuple(self.shape[axis] for axis in self.order)

    @property
    def scalar(self) -> float | None:
        """The value of a constant whose elements are all equal; None for any other array."""
        value = self.tensor.value
        return None if value is None or value.size != 1 else value.reshape(())[()]


def from_tensor(tensor: Tensor, order: Sequence[int] | None = None) -> LazyArray:
    """Returns the array that a tensor stores.

    Args:
      tensor: the stored elements.
      order: for each axis of the tensor, the axis of the array; None if the axes are the same.
    """
    order = tuple(range(len(tensor.shape)) if order is None else order)
    return LazyArray(tensor, order, tuple(tensor.shape[order.index(i)] for i in range(len(order))))


def constant(graph: Graph, value: Any) -> LazyArray:
    """Returns a constant as an array."""
    return from_tensor(graph.constant(value))


def tensor_in_order(graph: Graph, array: LazyArray, order: Sequence[int]) -> Tensor:
    """Returns the array's tensor with its axes in an order, without broadcasting."""
    order = tuple(order)
    if order == array.order:
        return array.tensor
    tensor, permutation = array.tensor, [array.order.index(axis) for axis in order]
    if tensor.value is not None:
        return graph.constant(np.transpose(tensor.value, permutation))
    shape = tuple(tensor.shape[i] for i in permutation)
    moved = [i for i in permutation if tensor.shape[i] != 1]
    if moved == sorted(moved):
        return reshape_tensor(graph, tensor, shape)
    return graph.add("Transpose", [tensor], shape, tensor.dtype, perm=permutation)


def reorder(graph: Graph, array: LazyArray, order: Sequence[int]) -> LazyArray:
    """Returns the array, stored with its axes in an order."""
    return LazyArray(tensor_in_order(graph, array, order), tuple(order), array.shape)


def materialize(graph: Graph, array: LazyArray) -> Tensor:
    """Returns a tensor with the array's order of axes and shape."""
    return broadcast_fully(graph, reorder(graph, array, range(len(array.shape)))).tensor


def broadcast_fully(graph: Graph, array: LazyArray) -> LazyArray:
    """Returns the array, broadcast along all axes."""
    if not array.needs_broadcast:
        return array
    tensor, shape = array.tensor, tuple(array.shape[axis] for axis in array.order)
    if tensor.value is not None and not any(size % BATCH == 0 for size in shape):
        return array._replace(tensor=graph.constant(np.broadcast_to(tensor.value, shape)))
    inputs = [tensor, graph.dimensions(shape)]
    return array._replace(tensor=graph.add("Expand", inputs, shape, tensor.dtype))


def reshape_tensor(graph: Graph, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Reshapes a tensor."""
    shape = tuple(shape)
    if shape == tensor.shape:
        return tensor
    if tensor.value is not None:
        return graph.constant(np.reshape(tensor.value, shape))
    sizes = [-1 if size % BATCH == 0 else size for size in shape]
    if sizes.count(-1) > 1:
        raise UnsupportedError("with two axes that depend on the number of images")
    inputs = [tensor, graph.integers(sizes)]
    return graph.add("Reshape", inputs, shape, tensor.dtype)


def reshape(graph: Graph, array: LazyArray, shape: Sequence[int]) -> LazyArray:
    """Reshapes an array, and keeps its stored order of axes where possible.

    Only axes that are split or joined have to be adjacent.
    """
    shape = tuple(shape)
    groups = _matching_axes(array.shape, shape)
    if any(len(before) != 1 or len(after) != 1 for before, after in groups):
        array = broadcast_fully(graph, array)
    array = _make_adjacent(graph, array, [before for before, _ in groups])
    group_by_first_axis = {before[0]: (before, after) for before, after in groups}
    order, sizes = [], []
    for position, axis in enumerate(array.order):
        before, after = group_by_first_axis.get(axis, ([], []))
        order += after
        # Axes that do not change need not be broadcast.
        is_unchanged = len(before) == len(after) == 1
        sizes += [array.tensor.shape[position]] if is_unchanged else [shape[i] for i in after]
    return insert_axes(graph, array.tensor, order, sizes, shape)


def insert_axes(
    graph: Graph, tensor: Tensor, order: Sequence[int], sizes: Sequence[int], shape: Sequence[int]
) -> LazyArray:
    """Reshapes a tensor to `sizes`, and inserts axes of size 1 for axes that `order` omits."""
    order, sizes = list(order), list(sizes)
    for axis in reversed(range(len(shape))):
        if axis not in order:
            position = order.index(axis + 1) if axis + 1 in order else len(order)
            order.insert(position, axis)
            sizes.insert(position, 1)
    return LazyArray(reshape_tensor(graph, tensor, sizes), tuple(order), tuple(shape))


def _matching_axes(
    before: Sequence[int], after: Sequence[int]
) -> list[tuple[list[int], list[int]]]:
    """Returns pairs of axis groups (before, after) with equal element counts, without size 1."""
    old = [axis for axis, size in enumerate(before) if size != 1]
    new = [axis for axis, size in enumerate(after) if size != 1]
    groups = []
    while old:
        left, right = [old.pop(0)], [new.pop(0)]
        while (a := math.prod(before[i] for i in left)) != (
            b := math.prod(after[i] for i in right)
        ):
            (left if a < b else right).append((old if a < b else new).pop(0))
        groups.append((left, right))
    return groups


def _make_adjacent(graph: Graph, array: LazyArray, groups: Sequence[Sequence[int]]) -> LazyArray:
    """Returns the array, stored such that the axes in each group are adjacent and in order."""
    order = list(array.order)
    for group in groups:
        relevant = [axis for axis in order if axis in group or array.shape[axis] != 1]
        start = relevant.index(group[0])
        if relevant[start : start + len(group)] == list(group):
            continue
        position = min(order.index(axis) for axis in group)
        order = [axis for axis in order if axis not in group]
        order[position:position] = group
    return reorder(graph, array, order)


def add_op(
    graph: Graph, op: str, *operands: LazyArray | float, dtype: Any = None, **attributes
) -> LazyArray:
    """Adds an elementwise operator on arrays whose shapes broadcast.

    Args:
      graph: the graph to add to.
      op: ONNX's name for the operator.
      *operands: arrays, or numbers that take the first array's dtype.
      dtype: element type of the result; None for the first array's.
      **attributes: attributes of the operator.
    """
    first = next(operand for operand in operands if isinstance(operand, LazyArray))
    arrays = [
        operand
        if isinstance(operand, LazyArray)
        else constant(graph, np.asarray(operand, dtype=first.dtype))
        for operand in operands
    ]
    rank = max(len(array.shape) for array in arrays)
    reference = reference_array([array for array in arrays if len(array.shape) == rank])
    tensors = [_operand(graph, array, reference.order) for array in arrays]
    stored = _broadcast_shape([tensor.shape for tensor in tensors], rank)
    shape = _broadcast_shape([array.shape for array in arrays], rank)
    tensor = graph.add(op, tensors, stored, dtype or first.dtype, **attributes)
    return LazyArray(tensor, reference.order, shape)


def reference_array(arrays: Sequence[LazyArray]) -> LazyArray:
    """Returns the array that determines the stored order of axes of an operator's operands.

    The reference is one of the arrays with the most axes, preferably one in JAX's order, in which
    matrix products are stored too. Outputs of convolutions are then transposed once rather than at
    every sum.
    """
    varying = [array for array in arrays if array.value is None] or arrays
    extents = [sum(size != 1 for size in array.tensor.shape) for array in varying]
    large = [a for a, extent in zip(varying, extents, strict=True) if extent == max(extents)]
    return next((a for a in large if list(a.order) == sorted(a.order)), large[0])


def _operand(graph: Graph, array: LazyArray, order: Sequence[int]) -> Tensor:
    if array.scalar is not None:
        return graph.constant(np.reshape(array.value, ()))
    return tensor_in_order(graph, array, order) if array.shape else array.tensor


def _broadcast_shape(shapes: Sequence[Sequence[int]], rank: int) -> tuple[int, ...]:
    return tuple(map(max, zip(*(shape for shape in shapes if len(shape) == rank), strict=True)))


def onnx_pads(pairs: Sequence[Sequence[int]]) -> list[int]:
    """Converts (low, high) for each axis to ONNX's `pads`."""
    return [int(low) for low, _ in pairs] + [int(high) for _, high in pairs]
