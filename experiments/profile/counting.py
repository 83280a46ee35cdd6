"""Counts the floating-point operations of convolutions and matrix products.

A convolution of B images with a kernel of H x W taps, from C channels per group to D features at P
positions, has 2 B P H W C D operations, and each of its two gradients has as many. As in papers,
taps on the zeros of padding count. The zeros between the pixels of a dilated image, which XLA uses
for the gradient of a strided convolution, do not count. XLA's own estimates omit padding and most
custom calls.
"""

import math
import re

from rrd_jax.cpu.hlo import Instruction, Program, custom_call_target, parse_convolution


def flops(program: Program, instruction: Instruction) -> int:
    """Returns the operations of the convolutions and products that an instruction runs."""
    return sum(_flops(program, inner) for inner in program.nested_instructions(instruction))


def _flops(program: Program, instruction: Instruction) -> int:
    if convolution := parse_convolution(program, instruction):
        return convolution.flops
    if depth := contracted_size(program, instruction):
        return 2 * instruction.result.size * depth
    return 0


def contracted_size(program: Program, instruction: Instruction) -> int:
    """Returns the number of terms that a matrix product sums; 0 for other instructions."""
    if instruction.opcode == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        numbers = re.findall(r"\d+", axes.group(1)) if axes else []
        shape = program.operand(instruction, 0).shape
        return math.prod(shape[int(axis)] for axis in numbers)
    target = custom_call_target(instruction)
    if not any(part in target for part in ("onednn$matmul", "cublas", "dot", "gemm")):
        return 0
    # For B products of [M, K] and [K, N]: BMK * BKN / BMN = B K^2.
    left, right = (program.operand(instruction, i) for i in (0, 1))
    result = instruction.result
    batch = math.prod(result.shape[:-2])
    return math.isqrt(max(left.size * right.size // max(result.size * batch, 1), 0))
