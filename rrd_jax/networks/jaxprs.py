"""Helpers for traversing jaxprs."""

from collections.abc import Sequence
from typing import Any

# Loops and branches, whose results depend on their operands in more than one pass.
_LOOPS = ("scan", "while", "cond")


def called(equation: Any) -> Any:
    """Returns the program that an equation such as jit calls with its operands, or None."""
    for value in equation.params.values():
        program = getattr(value, "jaxpr", value)
        if hasattr(program, "eqns") and len(program.invars) == len(equation.invars):
            return program if len(program.outvars) == len(equation.outvars) else None
    return None


def reached(program: Any, sources: Sequence[int]) -> list[int]:
    """Returns the operands that each result of a program may depend on.

    Args:
      program: a jaxpr.
      sources: a set of operands per input of the program, as bits of an integer.

    Returns:
      A set per result, as bits of an integer. A result without bits is constant.
    """
    sources_of = dict(zip(program.invars, sources, strict=True))

    def bits(value: Any) -> int:
        # Literals are not hashable.
        return 0 if hasattr(value, "val") else sources_of.get(value, 0)

    for equation in program.eqns:
        operands = [bits(value) for value in equation.invars]
        inner = None if equation.primitive.name in _LOOPS else called(equation)
        if inner is not None:
            results = reached(inner, operands)
        else:
            union = 0
            for operand in operands:
                union |= operand
            results = [union] * len(equation.outvars)
        sources_of.update(zip(equation.outvars, results, strict=True))
    return [bits(value) for value in program.outvars]
