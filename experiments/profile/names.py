"""JAX's names of instructions: transformations, scopes and the primitive, as a path."""

import re

from rrd_jax.cpu.hlo import Instruction, Program

_WRAPPERS = re.compile(r"\b(?:jvp|transpose|vmap|jit|pjit|checkpoint|remat)\(([^()]*)\)")
# Number of instructions that are searched for a name.
_MOST_READERS = 16
_PARTS = ("input", "teacher", "student", "update")


def find_op_name(program: Program, instruction: Instruction) -> str:
    """Returns JAX's name of an instruction, or a related name for instructions of XLA.

    For instructions without a name, the names of their readers are searched first, then the names
    of nested instructions. For example, XLA rewrites the gradient of a kernel as a convolution of
    transposed images, and only the transpose of the result keeps JAX's name.
    """
    if instruction.op_name or instruction.opcode in ("parameter", "constant"):
        return instruction.op_name
    waiting, visited = [instruction], set()
    while waiting and len(visited) < _MOST_READERS:
        current = waiting.pop(0)
        if current.op_name:
            return current.op_name
        visited.add(current.name)
        waiting += [r for r in program.readers(current) if r.name not in visited]
    nested = [i for i in program.nested_instructions(instruction) if i.opcode != "parameter"]
    return next((inner.op_name for inner in reversed(nested) if inner.op_name), "")


def path(op_name: str) -> tuple[str, ...]:
    """Returns the scopes and the primitive of a name, without transformations."""
    previous = None
    while previous != op_name:
        previous, op_name = op_name, _WRAPPERS.sub(r"\1", op_name)
    return tuple(scope for scope in op_name.split("/") if scope)


def part(op_name: str) -> str:
    """Returns the part of the step, from the scopes of `rrd_jax.training.step`; "" if unknown."""
    for scope in path(op_name):
        if scope in _PARTS:
            return scope
        if scope.startswith("objective_"):
            return f"objective {scope.removeprefix('objective_')}"
    return ""


def is_backward(op_name: str) -> bool:
    """Returns True for the backward pass, without recomputed parts of the forward pass."""
    return "transpose(" in op_name and "rematted_computation" not in op_name
