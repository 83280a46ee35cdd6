"""What JAX called an instruction: transformations, scopes and the primitive, as one path."""

import re

from rrd_jax.cpu.hlo import Instruction, Program

_WRAPPERS = re.compile(r"\b(?:jvp|transpose|vmap|jit|pjit|checkpoint|remat)\(([^()]*)\)")
_FAR = 16  # instructions that are looked at for a name
_PARTS = ("input", "teacher", "student", "update")


def of(program: Program, instruction: Instruction) -> str:
    """What JAX called an instruction; of one that XLA made, what it is made for, or made of.

    XLA writes the gradient of a kernel as a convolution of its own, turns its images round for it
    first, and only what turns the result back keeps the name.
    """
    if instruction.op_name or instruction.opcode in ("parameter", "constant"):
        return instruction.op_name
    waiting, seen = [instruction], set()
    while waiting and len(seen) < _FAR:
        current = waiting.pop(0)
        if current.op_name:
            return current.op_name
        seen.add(current.name)
        waiting += [r for r in program.readers(current) if r.name not in seen]
    inside = [i for i in program.nested_instructions(instruction) if i.opcode != "parameter"]
    return next((inner.op_name for inner in reversed(inside) if inner.op_name), "")


def path(op_name: str) -> tuple[str, ...]:
    """Scopes and primitive of an op_name, without the transformations around them."""
    before = None
    while before != op_name:
        before, op_name = op_name, _WRAPPERS.sub(r"\1", op_name)
    return tuple(scope for scope in op_name.split("/") if scope)


def part(op_name: str) -> str:
    """The part of the step that `rrd_jax.training.step` opened a scope for; "" for none."""
    for scope in path(op_name):
        if scope in _PARTS:
            return scope
        if scope.startswith("objective_"):
            return f"objective {scope.removeprefix('objective_')}"
    return ""


def is_backward(op_name: str) -> bool:
    """Whether it is of a gradient; what is computed a second time for one is not."""
    return "transpose(" in op_name and "rematted_computation" not in op_name
