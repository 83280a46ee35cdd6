"""What each instruction of a train step is, and which part of the step it belongs to."""

import dataclasses

from experiments.profile import convolutions, counting, names
from rrd_jax.cpu import hlo
from rrd_jax.cpu.hlo import Instruction, Program

CONVOLUTIONS, PRODUCTS, REDUCTIONS = "convolutions", "matrix products", "reductions, pooling"
COPIES, OTHERS = "transposes, copies", "other fusions"
# Opcodes of a fusion that decide what it is, first of all first.
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
    """What an instruction is.

    Attributes:
      kind: of work, one of the constants above.
      part: of the step: input, teacher, student, objective <name>, update, or "" for none.
      backward: whether it is of a gradient.
      label: for convolutions and products, their shape; "" for others.
      direction: of a convolution; "" for others.
      count: how many convolutions or products it is.
      flops: of these.
      dtype: of what it reads.
      op_name: what JAX called it, or what it is made for.
      runs_others: whether it is a loop or a call, whose instructions have times of their own.
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
    runs_others: bool = False


def classify(program: Program, written: Program | None = None) -> dict[str, Entry]:
    """What each instruction is, by its name.

    Args:
      program: as it is compiled.
      written: as JAX wrote it, whose convolutions are those of the networks; None where it is not
        known, then convolutions are described as the compiler has rewritten them.
    """
    known = convolutions.Known(written or program)
    return {
        name: _entry(program, instruction, known)
        for name, instruction in program.instructions.items()
    }


def _entry(program: Program, instruction: Instruction, known: convolutions.Known) -> Entry:
    op_name = names.of(program, instruction)
    part, backward = names.part(op_name), names.is_backward(op_name)
    shared = {"part": part, "backward": backward, "op_name": op_name}
    if instruction.opcode in _RUNNERS:
        return Entry(OTHERS, runs_others=True, **shared)
    inside = list(program.nested_instructions(instruction))
    shared["dtype"] = _widest(program, instruction)
    found = [
        known.described(convolution, names.of(program, inner) or op_name)
        for inner in inside
        if (convolution := hlo.parse_convolution(program, inner))
    ]
    products = [inner for inner in inside if counting.contracted(program, inner)]
    flops = sum(counting.flops(program, product) for product in products)
    shape = " and ".join(sorted({_product(program, product) for product in products}))
    if found:
        directions = {one.direction for one in found}
        return Entry(
            CONVOLUTIONS,
            **shared,
            label=found[0].label if len(found) == 1 else f"{len(found)} in one fusion",
            direction=directions.pop() if len(directions) == 1 else "several",
            flops=flops + sum(one.flops for one in found),
            count=len(found),
        )
    if products:
        return Entry(PRODUCTS, **shared, label=shape, flops=flops, count=len(products))
    return Entry(_plain_kind(inside), **shared)


def _plain_kind(inside: list[Instruction]) -> str:
    opcodes = {i.opcode for i in inside}
    for kind, deciding in _DECIDING.items():
        if opcodes.intersection(deciding):
            return kind
    return COPIES if opcodes <= _MOVING else OTHERS


def _widest(program: Program, instruction: Instruction) -> str:
    """The type of the largest array it reads or makes."""
    read = [program.instructions[name].result for name in instruction.operands
            if name in program.instructions]  # fmt: skip
    return max([*read, instruction.result], key=lambda array: array.size).dtype


def _product(program: Program, instruction: Instruction) -> str:
    """[M, K] by [K, N], as M x K x N; of several at once, with their number before it."""
    depth, result = counting.contracted(program, instruction), instruction.result
    left = program.operand(instruction, 0).size
    rows = max(left // max(depth, 1), 1)
    return f"{rows} x {depth} x {max(result.size // rows, 1)}"
