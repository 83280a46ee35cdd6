"""What an instruction has to compute: floating-point operations of convolutions and products.

A convolution of B images, a kernel of H x W taps, C channels a group to D features at P places has
2 B P H W C D operations, and each of its two gradients has as many. Taps on the zeros of padding
count, as in papers; the holes of a dilated image, which XLA writes the gradient of a stride with,
do not. XLA's own estimates leave padding out, and most of what is in custom calls.
"""

import math
import re

from rrd_jax.cpu.hlo import Instruction, Program, custom_call_target, parse_convolution


def flops(program: Program, instruction: Instruction) -> int:
    """Operations of an instruction's convolutions and products, those inside it too."""
    return sum(_flops(program, inner) for inner in program.nested_instructions(instruction))


def _flops(program: Program, instruction: Instruction) -> int:
    if found := parse_convolution(program, instruction):
        return found.flops
    if depth := contracted(program, instruction):
        return 2 * instruction.result.size * depth
    return 0


def contracted(program: Program, instruction: Instruction) -> int:
    """The length of the axes that a matrix product sums over; 0 for what is none."""
    if instruction.opcode == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        numbers = re.findall(r"\d+", axes.group(1)) if axes else []
        shape = program.operand(instruction, 0).shape
        return math.prod(shape[int(axis)] for axis in numbers)
    target = custom_call_target(instruction)
    if not any(part in target for part in ("onednn$matmul", "cublas", "dot", "gemm")):
        return 0
    # Of B products [M, K] by [K, N]: BMK * BKN / BMN = B K^2.
    left, right = (program.operand(instruction, i) for i in (0, 1))
    result = instruction.result
    batch = math.prod(result.shape[:-2])
    return math.isqrt(max(left.size * right.size // max(result.size * batch, 1), 0))
