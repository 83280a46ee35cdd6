"""The text of a compiled program: its instructions, and what its convolutions are."""

from rrd_jax.cpu.hlo.convolutions import Convolution, convolution, convolutions, custom_target
from rrd_jax.cpu.hlo.program import Array, Instruction, Program, arrays, parse

__all__ = [
    "Array",
    "Convolution",
    "Instruction",
    "Program",
    "arrays",
    "convolution",
    "convolutions",
    "custom_target",
    "parse",
]
