"""Unrolled loops of known length."""

from collections.abc import Callable, Sequence
from typing import Any

from rrd_jax.exports.onnx.graph import Graph, UnsupportedError
from rrd_jax.exports.onnx.places import concatenated, sliced
from rrd_jax.exports.onnx.views import View, arranged, constant, reshape

_LONGEST = 256


def unrolled(
    graph: Graph,
    write: Callable[..., list[View]],
    params: dict[str, Any],
    operands: Sequence[View],
) -> list[View]:
    """Unrolls `lax.scan`; returns the carry and the stacked results of its steps.

    Args:
      graph: to add to.
      write: (program, operands) -> results of a step.
      params: of the primitive.
      operands: constants, the initial carry, and the arrays that are scanned.
    """
    fixed, carried = _counts(params)
    length = params["length"]
    if not isinstance(length, int) or length > _LONGEST:
        raise UnsupportedError(f"of {length} steps")
    constants, carry = list(operands[:fixed]), list(operands[fixed : fixed + carried])
    scanned, steps = operands[fixed + carried :], []
    for i in reversed(range(length)) if params["reverse"] else range(length):
        now = [_at(graph, array, i) for array in scanned]
        results = write(params["jaxpr"], [*constants, *carry, *now])
        carry = results[:carried]
        steps.append(results[carried:])
    if params["reverse"]:
        steps.reverse()
    return [*carry, *(_stack(graph, parts) for parts in zip(*steps, strict=True))]


def _counts(params: dict[str, Any]) -> tuple[int, int]:
    """Returns the numbers of constants and of carried operands."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    fixed, carried, _ = map(list, params["ft_in"].unpack())  # newer versions of JAX
    return len(fixed), len(carried)


def _at(graph: Graph, array: View, i: int) -> View:
    if array.value is not None and not array.repeated:
        return constant(graph, arranged(graph, array, range(len(array.shape))).value[i])
    starts, limits = [i] + [0] * (len(array.shape) - 1), [i + 1, *array.shape[1:]]
    return reshape(graph, sliced(graph, array, starts, limits), array.shape[1:])


def _stack(graph: Graph, parts: Sequence[View]) -> View:
    parts = [reshape(graph, part, (1, *part.shape)) for part in parts]
    return concatenated(graph, parts, 0)
