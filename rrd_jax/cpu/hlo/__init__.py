"""A parser for the text of compiled programs (HLO): instructions and convolutions."""

from rrd_jax.cpu.hlo.convolution_shapes import (
    Convolution,
    custom_call_target,
    find_convolutions,
    parse_convolution,
)
from rrd_jax.cpu.hlo.parser import Array, Instruction, Program, parse, parse_arrays

__all__ = [
    "Array",
    "Convolution",
    "Instruction",
    "Program",
    "custom_call_target",
    "find_convolutions",
    "parse",
    "parse_arrays",
    "parse_convolution",
]
