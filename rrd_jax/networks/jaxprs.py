"""Helpers for traversing jaxprs."""

from typing import Any


def called(equation: Any) -> Any:
    """Returns the program that an equation such as jit calls with its operands, or None."""
    for value in equation.params.values():
        program = getattr(value, "jaxpr", value)
        if hasattr(program, "eqns") and len(program.invars) == len(equation.invars):
            return program if len(program.outvars) == len(equation.outvars) else None
    return None
