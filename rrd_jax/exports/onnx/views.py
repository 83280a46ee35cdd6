"""Arrays of JAX as tensors of the graph: in an order of axes of their own, and not yet broadcast.

JAX's images have their channels last, ONNX's first. An array is therefore stored in whatever order
of axes its maker prefers, and is only transposed where an operator needs another one.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rrd_jax.exports.onnx.graph import BATCH, Graph, Tensor, UnsupportedError


class View(NamedTuple):
    """An array of JAX.

    Attributes:
      tensor: that stores it. Its size is 1 along axes that it is yet to be repeated along.
      order: axis of the array that each axis of the tensor is.
      shape: of the array.
    """

    tensor: Tensor
    order: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def value(self) -> Any:
        """Of a constant, as it is stored; else None."""
        return self.tensor.value

    @property
    def dtype(self) -> np.dtype:
        """Of the elements."""
        return self.tensor.dtype

    def places(self, axes: Sequence[int]) -> list[int]:
        """Axes of the tensor that are these axes of the array, sorted."""
        return [place for place, axis in enumerate(self.order) if axis in set(axes)]

    @property
    def repeated(self) -> bool:
        """Whether it is still to be repeated along an axis."""
        return self.tensor.shape != tuple(self.shape[axis] for axis in self.order)

    @property
    def number(self) -> float | None:
        """Of a constant that is one number everywhere; else None."""
        value = self.tensor.value
        return None if value is None or value.size != 1 else value.reshape(())[()]


def view(tensor: Tensor, order: Sequence[int] | None = None) -> View:
    """A tensor as an array whose axes it has in this order; in the array's own, if None."""
    order = tuple(range(len(tensor.shape)) if order is None else order)
    return View(tensor, order, tuple(tensor.shape[order.index(i)] for i in range(len(order))))


def constant(graph: Graph, value: Any) -> View:
    """A constant array."""
    return view(graph.constant(value))


def arrange(graph: Graph, array: View, order: Sequence[int]) -> Tensor:
    """The array as a tensor with this order of axes; what is yet to be repeated stays so."""
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
    """The array, stored in this order of axes."""
    return View(arrange(graph, array, order), tuple(order), array.shape)


def plain(graph: Graph, array: View) -> Tensor:
    """The array as a tensor with the same axes, repeated along all."""
    return whole(graph, arranged(graph, array, range(len(array.shape)))).tensor


def whole(graph: Graph, array: View) -> View:
    """The array, stored with all that it repeats."""
    if not array.repeated:
        return array
    tensor, shape = array.tensor, tuple(array.shape[axis] for axis in array.order)
    if tensor.value is not None and not any(size % BATCH == 0 for size in shape):
        return array._replace(tensor=graph.constant(np.broadcast_to(tensor.value, shape)))
    inputs = [tensor, graph.dimensions(shape)]
    return array._replace(tensor=graph.add("Expand", inputs, shape, tensor.dtype))


def reshape_tensor(graph: Graph, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor with as many elements, in the same sequence."""
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
    """The array with other axes and as many elements, stored in an order as near as there is.

    Axes that are split or joined are seen as groups; the rest stays where it is stored.
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
        # What passes unchanged may be yet to be repeated.
        passes = len(before) == len(after) == 1
        sizes += [array.tensor.shape[place]] if passes else [shape[i] for i in after]
    for axis in reversed(range(len(shape))):
        if axis not in order:  # of size 1
            place = order.index(axis + 1) if axis + 1 in order else len(order)
            order.insert(place, axis)
            sizes.insert(place, 1)
    return View(reshape_tensor(graph, array.tensor, sizes), tuple(order), shape)


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The axes, but those of size 1, in groups with as many elements before as after."""
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
    """The array, stored so that the axes of each group are beside each other in their order."""
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
    """The result of an operator on elements, of arrays of one shape, or that broadcast to one.

    Args:
      graph: that it becomes part of.
      op: ONNX's name.
      *operands: arrays, or numbers of the first array's type.
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
    """The array whose order of axes the others take.

    It is a large one. Where orders differ, JAX's own wins, which matrix products have too: what
    comes from a convolution then changes once, not at every sum.
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
