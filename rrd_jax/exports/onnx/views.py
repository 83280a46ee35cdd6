"""Views: arrays of JAX stored as tensors of the graph, with permuted axes and not yet broadcast.

JAX's images have their channels last, ONNX's first. An array is therefore stored in the order of
axes that its operator produces, and transposed only if an operator needs another order.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rrd_jax.exports.onnx.graph import BATCH, Graph, Tensor, UnsupportedError


class View(NamedTuple):
    """An array of JAX.

    Attributes:
      tensor: the stored elements; its size is 1 along axes that are not broadcast yet.
      order: the array's axis for each axis of the tensor.
      shape: of the array.
    """

    tensor: Tensor
    order: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def value(self) -> Any:
        """The stored value of a constant; else None."""
        return self.tensor.value

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the elements."""
        return self.tensor.dtype

    def places(self, axes: Sequence[int]) -> list[int]:
        """Returns the tensor's axes for axes of the array, sorted."""
        return [place for place, axis in enumerate(self.order) if axis in set(axes)]

    @property
    def repeated(self) -> bool:
        """Returns True if some axis is not broadcast yet."""
        return self.tensor.shape != tuple(self.shape[axis] for axis in self.order)

    @property
    def number(self) -> float | None:
        """The value of a constant with equal elements; else None."""
        value = self.tensor.value
        return None if value is None or value.size != 1 else value.reshape(())[()]


def view(tensor: Tensor, order: Sequence[int] | None = None) -> View:
    """Returns the view of a tensor whose axes are the array's in this order; None: the same."""
    order = tuple(range(len(tensor.shape)) if order is None else order)
    return View(tensor, order, tuple(tensor.shape[order.index(i)] for i in range(len(order))))


def constant(graph: Graph, value: Any) -> View:
    """Returns the view of a constant."""
    return view(graph.constant(value))


def arrange(graph: Graph, array: View, order: Sequence[int]) -> Tensor:
    """Returns the array's tensor in this order of axes, without broadcasting."""
    order = tuple(order)
    if order == array.order:
        return array.tensor
    tensor, places = array.tensor, [array.order.index(axis) for axis in order]
    if tensor.value is not None:
        return graph.constant(np.transpose(tensor.value, places))
    shape = tuple(tensor.shape[place] for place in places)
    moved = [place for place in places if tensor.shape[place] != 1]
    if moved == sorted(moved):
        return reshape_tensor(graph, tensor, shape)
    return graph.add("Transpose", [tensor], shape, tensor.dtype, perm=places)


def arranged(graph: Graph, array: View, order: Sequence[int]) -> View:
    """Returns the array, stored in this order of axes."""
    return View(arrange(graph, array, order), tuple(order), array.shape)


def plain(graph: Graph, array: View) -> Tensor:
    """Returns the array's tensor in the array's order of axes, broadcast."""
    return whole(graph, arranged(graph, array, range(len(array.shape)))).tensor


def whole(graph: Graph, array: View) -> View:
    """Returns the array, broadcast along all axes."""
    if not array.repeated:
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


def reshape(graph: Graph, array: View, shape: Sequence[int]) -> View:
    """Reshapes an array, and keeps the order in which it is stored where possible.

    Only axes that are split or joined have to be adjacent.
    """
    shape = tuple(shape)
    groups = _groups(array.shape, shape)
    if any(len(before) != 1 or len(after) != 1 for before, after in groups):
        array = whole(graph, array)
    array = _gathered(graph, array, [before for before, _ in groups])
    of_first = {before[0]: (before, after) for before, after in groups}
    order, sizes = [], []
    for place, axis in enumerate(array.order):
        before, after = of_first.get(axis, ([], []))
        order += after
        # Axes that do not change need not be broadcast.
        passes = len(before) == len(after) == 1
        sizes += [array.tensor.shape[place]] if passes else [shape[i] for i in after]
    return expanded(graph, array.tensor, order, sizes, shape)


def expanded(
    graph: Graph, tensor: Tensor, order: Sequence[int], sizes: Sequence[int], shape: Sequence[int]
) -> View:
    """Reshapes a tensor to sizes, with axes of size 1 inserted for axes that are not in `order`."""
    order, sizes = list(order), list(sizes)
    for axis in reversed(range(len(shape))):
        if axis not in order:
            place = order.index(axis + 1) if axis + 1 in order else len(order)
            order.insert(place, axis)
            sizes.insert(place, 1)
    return View(reshape_tensor(graph, tensor, sizes), tuple(order), tuple(shape))


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Returns groups of axes (before, after) with equal numbers of elements, without size 1."""
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


def _gathered(graph: Graph, array: View, groups: Sequence[Sequence[int]]) -> View:
    """Returns the array, stored so that the axes of each group are adjacent and in order."""
    order = list(array.order)
    for group in groups:
        held = [axis for axis in order if axis in group or array.shape[axis] != 1]
        start = held.index(group[0])
        if held[start : start + len(group)] == list(group):
            continue
        place = min(order.index(axis) for axis in group)
        order = [axis for axis in order if axis not in group]
        order[place:place] = group
    return arranged(graph, array, order)


def combine(
    graph: Graph, op: str, *operands: View | float, dtype: Any = None, **attributes
) -> View:
    """Adds an elementwise operator on arrays whose shapes broadcast.

    Args:
      graph: to add to.
      op: ONNX's name.
      *operands: arrays, or numbers of the first array's dtype.
      dtype: of the result; the first array's if None.
      **attributes: of the operator.
    """
    first = next(operand for operand in operands if isinstance(operand, View))
    arrays = [
        operand
        if isinstance(operand, View)
        else constant(graph, np.asarray(operand, dtype=first.dtype))
        for operand in operands
    ]
    rank = max(len(array.shape) for array in arrays)
    lead = leading([array for array in arrays if len(array.shape) == rank])
    tensors = [_operand(graph, array, lead.order) for array in arrays]
    stored = _broadcast([tensor.shape for tensor in tensors], rank)
    shape = _broadcast([array.shape for array in arrays], rank)
    tensor = graph.add(op, tensors, stored, dtype or first.dtype, **attributes)
    return View(tensor, lead.order, shape)


def leading(arrays: Sequence[View]) -> View:
    """Returns the array whose order of axes the others are converted to.

    This is one of the largest arrays, preferably in JAX's order, which matrix products have too:
    outputs of convolutions are then transposed once, not at every sum.
    """
    varying = [array for array in arrays if array.value is None] or arrays
    extents = [sum(size != 1 for size in array.tensor.shape) for array in varying]
    large = [a for a, extent in zip(varying, extents, strict=True) if extent == max(extents)]
    return next((a for a in large if list(a.order) == sorted(a.order)), large[0])


def _operand(graph: Graph, array: View, order: Sequence[int]) -> Tensor:
    if array.number is not None:
        return graph.constant(np.reshape(array.value, ()))
    return arrange(graph, array, order) if array.shape else array.tensor


def _broadcast(shapes: Sequence[Sequence[int]], rank: int) -> tuple[int, ...]:
    return tuple(map(max, zip(*(shape for shape in shapes if len(shape) == rank), strict=True)))


def pads_of(pairs: Sequence[Sequence[int]]) -> list[int]:
    """Returns ONNX's `pads`, given (low, high) for each axis."""
    return [int(low) for low, _ in pairs] + [int(high) for _, high in pairs]
