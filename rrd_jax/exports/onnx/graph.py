"""A graph of ONNX's operators while it is built, without the `onnx` package."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# Stands for the number of images in shapes. No layer is as wide as a prime of this size, so that
# what it divides is a multiple of the batch, and shapes are compared as plain numbers.
BATCH = 2**31 - 1


class UnsupportedError(Exception):
    """Something has no counterpart here; the message ends "the network uses X, ..."."""


@dataclasses.dataclass(eq=False)
class Tensor:
    """What flows along an edge.

    Attributes:
      shape: sizes, of which multiples of BATCH are known when the file is run.
      dtype: of its elements.
      value: of a constant; else None.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    value: Any = None


@dataclasses.dataclass(eq=False)
class Node:
    """An operator.

    Attributes:
      op: ONNX's name of it.
      inputs: None for one that is left out.
      outputs: what it computes.
      attributes: ints, floats, strings, and lists of them.
      scope: where in the network it stands, such as "ResNet/layer1_0/conv1".
    """

    op: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    attributes: dict[str, Any]
    scope: str = ""


class Graph:
    """Nodes in an order in which they can be computed; a node that is there is not added again.

    Attributes:
      nodes: so far.
      images: the one input.
      outputs: by name.
      scope: of nodes that are added from now on.
    """

    def __init__(self, images: Tensor):
        self.nodes: list[Node] = []
        self.images = images
        self.outputs: dict[str, Tensor] = {}
        self.scope = ""
        self._known: dict[Any, list[Tensor]] = {}
        self._small: dict[Any, Tensor] = {}

    def add(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        shape: Iterable[int],
        dtype: Any,
        **attributes: Any,
    ) -> Tensor:
        """The result, of this shape and type, of an operator."""
        return self.add_many(op, inputs, [(shape, dtype)], **attributes)[0]

    def add_many(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        results: Sequence[tuple[Iterable[int], Any]],
        **attributes: Any,
    ) -> list[Tensor]:
        """Likewise for several results."""
        key = (op, tuple(map(id, inputs)), repr(sorted(attributes.items())))
        if key not in self._known:
            outputs = [Tensor(tuple(map(int, shape)), np.dtype(dtype)) for shape, dtype in results]
            self.nodes.append(Node(op, list(inputs), outputs, attributes, self.scope))
            self._known[key] = outputs
        return self._known[key]

    def constant(self, value: Any) -> Tensor:
        """A constant; small ones that are equal are one."""
        value = np.asarray(value)
        if value.size > 64:
            return Tensor(value.shape, value.dtype, value)
        key = (value.dtype.str, value.shape, value.tobytes())
        return self._small.setdefault(key, Tensor(value.shape, value.dtype, value))

    def integers(self, values: Iterable[int]) -> Tensor:
        """int64 numbers, such as axes."""
        return self.constant(np.asarray(list(values), np.int64))

    def dimensions(self, shape: Sequence[int]) -> Tensor:
        """int64 sizes, in which the number of images may stand."""
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

    def name_output(self, name: str, tensor: Tensor) -> None:
        """Makes a tensor an output."""
        result = Tensor(tensor.shape, tensor.dtype)
        self.nodes.append(Node("Identity", [tensor], [result], {}))
        self.outputs[name] = result

    def sweep(self) -> None:
        """Removes nodes that no output needs."""
        needed = set(map(id, self.outputs.values()))
        kept = []
        for node in reversed(self.nodes):
            if any(id(output) in needed for output in node.outputs):
                kept.append(node)
                needed.update(id(tensor) for tensor in node.inputs if tensor is not None)
        self.nodes = kept[::-1]
