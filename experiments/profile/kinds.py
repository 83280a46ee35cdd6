"""Classifies the instructions of a train step by kind and by part of the step."""

import dataclasses

from experiments.profile import counting, names, network_convolutions
from rrd_jax.cpu import hlo
from rrd_jax.cpu.hlo import Instruction, Program

CONVOLUTIONS, PRODUCTS, REDUCTIONS = "convolutions", "matrix products", "reductions, pooling"
COPIES, OTHERS = "transposes, copies", "other fusions"
# Opcodes that determine the kind of a fusion; the first kind that matches counts.
_DECIDING = {
    REDUCTIONS: ("reduce", "reduce-window", "select-and-scatter", "sort", "topk"),
    COPIES: ("transpose", "copy", "scatter", "gather"),
}
_MOVING = {
    *("bitcast", "broadcast", "concatenate", "constant", "convert", "copy", "copy-start"),
    *("copy-done", "get-tuple-element", "iota", "pad", "parameter", "reshape", "reverse"),
    *("slice", "dynamic-slice", "dynamic-update-slice", "transpose", "tuple"),
}
_RUNNERS = ("while", "conditional", "call", "async-start", "async-done", "async-update")


@dataclasses.dataclass(frozen=True)
class Entry:
    """The class of an instruction.

    Attributes:
      kind: kind of work, one of the constants above.
      part: part of the step: input, teacher, student, objective <name>, update, or "" if unknown.
      backward: True for a part of the backward pass.
      label: shape of convolutions and products; "" for other instructions.
      direction: direction of a convolution; "" for other instructions.
      count: number of convolutions or products.
      flops: floating-point operations of the convolutions or products.
      dtype: dtype of the largest array that is read or written.
      op_name: result of `names.find_op_name`.
      is_runner: True for loops and calls, whose instructions are timed separately.
    """

    kind: str
    part: str
    backward: bool
    label: str = ""
    direction: str = ""
    count: int = 0
    flops: int = 0
    dtype: str = ""
    op_name: str = ""
    is_runner: bool = False


def classify(program: Program, written: Program | None = None) -> dict[str, Entry]:
    """Returns the class of each instruction, by its name.

    Args:
      program: the compiled program.
      written: the program as JAX wrote it, with the convolutions of the networks. With None,
        convolutions have the shapes of the compiled program.
    """
    forward = network_convolutions.ForwardConvolutions(written or program)
    return {
        name: _entry(program, instruction, forward)
        for name, instruction in program.instructions.items()
    }


def _entry(
    program: Program,
    instruction: Instruction,
    forward: network_convolutions.ForwardConvolutions,
) -> Entry:
    op_name = names.find_op_name(program, instruction)
    part, backward = names.part(op_name), names.is_backward(op_name)
    shared = {"part": part, "backward": backward, "op_name": op_name}
    if instruction.opcode in _RUNNERS:
        return Entry(OTHERS, is_runner=True, **shared)
    nested = list(program.nested_instructions(instruction))
    shared["dtype"] = _largest_dtype(program, instruction)
    matches = [
        forward.match(convolution, names.find_op_name(program, inner) or op_name)
        for inner in nested
        if (convolution := hlo.parse_convolution(program, inner))
    ]
    products = [inner for inner in nested if counting.contracted_size(program, inner)]
    flops = sum(counting.flops(program, product) for product in products)
    shape = " and ".join(sorted({_product_shape(program, product) for product in products}))
    if matches:
        directions = {match.direction for match in matches}
        return Entry(
            CONVOLUTIONS,
            **shared,
            label=matches[0].label if len(matches) == 1 else f"{len(matches)} in one fusion",
            direction=directions.pop() if len(directions) == 1 else "several",
            flops=flops + sum(match.flops for match in matches),
            count=len(matches),
        )
    if products:
        return Entry(PRODUCTS, **shared, label=shape, flops=flops, count=len(products))
    return Entry(_other_kind(nested), **shared)


def _other_kind(nested: list[Instruction]) -> str:
    """Returns the kind of an instruction without convolutions and products."""
    opcodes = {instruction.opcode for instruction in nested}
    for kind, deciding in _DECIDING.items():
        if opcodes.intersection(deciding):
            return kind
    return COPIES if opcodes <= _MOVING else OTHERS


def _largest_dtype(program: Program, instruction: Instruction) -> str:
    """Returns the dtype of the largest array that an instruction reads or writes."""
    operands = [program.instructions[name].result for name in instruction.operands
                if name in program.instructions]  # fmt: skip
    return max([*operands, instruction.result], key=lambda array: array.size).dtype


def _product_shape(program: Program, instruction: Instruction) -> str:
    """Returns the shape of a product of [M, K] and [K, N] as "M x K x N"."""
    depth, result = counting.contracted_size(program, instruction), instruction.result
    left = program.operand(instruction, 0).size
    rows = max(left // max(depth, 1), 1)
    return f"{rows} x {depth} x {max(result.size // rows, 1)}"
