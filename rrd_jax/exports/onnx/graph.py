"""Graphs of ONNX operators under construction, without the `onnx` package."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# The number of images in shapes: a prime that exceeds the width of any layer. Its multiples are
# multiples of the batch size, so shapes can be compared as plain numbers.
BATCH = 2**31 - 1


class UnsupportedError(Exception):
    """An operation that ONNX lacks; the message continues "the network uses X ..."."""


@dataclasses.dataclass(eq=False)
class Tensor:
    """A tensor of the graph.

    Attributes:
      shape: sizes; multiples of BATCH depend on the number of images.
      dtype: element type.
      value: the value of a constant; None for a computed tensor.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    value: Any = None


@dataclasses.dataclass(eq=False)
class Node:
    """An operator.

    Attributes:
      op: ONNX's name for the operator.
      inputs: operands; None for an omitted optional operand.
      outputs: results.
      attributes: ints, floats, strings, and lists of these types.
      scope: path of the module, such as "ResNet/layer1_0/conv1".
    """

    op: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    attributes: dict[str, Any]
    scope: str = ""


class Graph:
    """Nodes in topological order; equal nodes are added once.

    Attributes:
      nodes: operators, in topological order.
      images: the input.
      outputs: results by name.
      scope: module path for the nodes that are added next.
    """

    def __init__(self, images: Tensor):
        self.nodes: list[Node] = []
        self.images = images
        self.outputs: dict[str, Tensor] = {}
        self.scope = ""
        self._outputs_by_key: dict[Any, list[Tensor]] = {}
        self._small_constants: dict[Any, Tensor] = {}

    def add(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        shape: Iterable[int],
        dtype: Any,
        **attributes: Any,
    ) -> Tensor:
        """Adds an operator with one result of the shape and dtype, and returns the result."""
        return self.add_many(op, inputs, [(shape, dtype)], **attributes)[0]

    def add_many(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        results: Sequence[tuple[Iterable[int], Any]],
        **attributes: Any,
    ) -> list[Tensor]:
        """Adds an operator with several results, and returns the results."""
        key = (op, tuple(map(id, inputs)), repr(sorted(attributes.items())))
        if key not in self._outputs_by_key:
            outputs = [Tensor(tuple(map(int, shape)), np.dtype(dtype)) for shape, dtype in results]
            self.nodes.append(Node(op, list(inputs), outputs, attributes, self.scope))
            self._outputs_by_key[key] = outputs
        return self._outputs_by_key[key]

    def constant(self, value: Any) -> Tensor:
        """Returns a constant; equal small constants are shared."""
        value = np.asarray(value)
        if value.size > 64:
            return Tensor(value.shape, value.dtype, value)
        key = (value.dtype.str, value.shape, value.tobytes())
        return self._small_constants.setdefault(key, Tensor(value.shape, value.dtype, value))

    def integers(self, values: Iterable[int]) -> Tensor:
        """Returns an int64 constant, such as axes."""
        return self.constant(np.asarray(list(values), np.int64))

    def dimensions(self, shape: Sequence[int]) -> Tensor:
        """Returns int64 sizes, computed from the number of images where necessary."""
        if not any(size % BATCH == 0 for size in shape):
            return self.integers(shape)
        batch = self.add("Shape", [self.images], (1,), np.int64, start=0, end=1)
        parts = []
        for size in shape:
            if size % BATCH:
                parts.append(self.integers([size]))
            elif size == BATCH:
                parts.append(batch)
            else:
                factor = self.integers([size // BATCH])
                parts.append(self.add("Mul", [batch, factor], (1,), np.int64))
        return self.add("Concat", parts, (len(shape),), np.int64, axis=0)

    def add_output(self, name: str, tensor: Tensor) -> None:
        """Adds a graph output that is computed from a tensor."""
        result = Tensor(tensor.shape, tensor.dtype)
        self.nodes.append(Node("Identity", [tensor], [result], {}))
        self.outputs[name] = result

    def remove_unused(self) -> None:
        """Removes nodes that no output depends on."""
        needed = set(map(id, self.outputs.values()))
        used = []
        for node in reversed(self.nodes):
            if any(id(output) in needed for output in node.outputs):
                used.append(node)
                needed.update(id(tensor) for tensor in node.inputs if tensor is not None)
        self.nodes = used[::-1]
