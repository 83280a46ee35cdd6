"""Unrolling of loops with a known length."""

from collections.abc import Callable, Sequence
from typing import Any

from rrd_jax.exports.onnx.graph import Graph, UnsupportedError
from rrd_jax.exports.onnx.lazy_arrays import LazyArray, constant, reorder, reshape
from rrd_jax.exports.onnx.shape_ops import concatenate, slice_array

_LONGEST = 256


def unroll(
    graph: Graph,
    convert: Callable[..., list[LazyArray]],
    params: dict[str, Any],
    operands: Sequence[LazyArray],
) -> list[LazyArray]:
    """Unrolls `lax.scan`; returns the final carry and the stacked results of all steps.

    Args:
      graph: the graph to add to.
      convert: (program, operands) -> results of a step.
      params: parameters of the primitive.
      operands: constants, the initial carry, and the arrays that are scanned.
    """
    num_consts, num_carry = _operand_counts(params)
    length = params["length"]
    if not isinstance(length, int) or length > _LONGEST:
        raise UnsupportedError(f"of {length} steps (at most {_LONGEST})")
    constants = list(operands[:num_consts])
    carry = list(operands[num_consts : num_consts + num_carry])
    scanned, steps = operands[num_consts + num_carry :], []
    for i in reversed(range(length)) if params["reverse"] else range(length):
        slices = [_slice_at(graph, array, i) for array in scanned]
        results = convert(params["jaxpr"], [*constants, *carry, *slices])
        carry = results[:num_carry]
        steps.append(results[num_carry:])
    if params["reverse"]:
        steps.reverse()
    return [*carry, *(_stack(graph, parts) for parts in zip(*steps, strict=True))]


def _operand_counts(params: dict[str, Any]) -> tuple[int, int]:
    """Returns the number of constants and the number of carried operands."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    # Newer versions of JAX replace the two counts with a tree of the operands.
    constants, carry, _ = map(list, params["ft_in"].unpack())
    return len(constants), len(carry)


def _slice_at(graph: Graph, array: LazyArray, i: int) -> LazyArray:
    if array.value is not None and not array.needs_broadcast:
        return constant(graph, reorder(graph, array, range(len(array.shape))).value[i])
    starts, limits = [i] + [0] * (len(array.shape) - 1), [i + 1, *array.shape[1:]]
    return reshape(graph, slice_array(graph, array, starts, limits), array.shape[1:])


def _stack(graph: Graph, parts: Sequence[LazyArray]) -> LazyArray:
    parts = [reshape(graph, part, (1, *part.shape)) for part in parts]
    return concatenate(graph, parts, 0)
