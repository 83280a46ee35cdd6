"""The memory that a compiled program needs on each device, and its largest arrays."""

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax

from rrd_jax import errors
from rrd_jax.cpu import hlo, scratch

_NAMES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32", "s32": "int32", "u8": "uint8"}
ACTIVATIONS = "activations"
_WORTH = 0.05  # Smaller shares of the whole suggest no field.
# Instructions without memory of their own.
_NO_ARRAY = (
    *("parameter", "get-tuple-element", "bitcast", "tuple", "constant"),
    *("while", "conditional", "call"),
)


class Footprint(NamedTuple):
    """Bytes of a compiled program on each device, as XLA plans them, and of a CPU's libraries.

    Attributes:
      arguments: its arguments.
      results: its results, except those that are written over donated arguments.
      temporaries: intermediate arrays.
      program: its code, on devices that hold it.
      libraries: an estimate of the scratch memory of libraries that a CPU computes with.
    """

    arguments: int
    results: int
    temporaries: int
    program: int
    libraries: int = 0

    @property
    def peak(self) -> int:
        """The sum of all parts."""
        return sum(self)


def described(
    compiled: Any,
    arguments: Mapping[str, Any],
    available: int,
    fields: Mapping[str, Iterable[str]],
) -> str:
    """Describes in one line the memory that a compiled step needs on each device.

    Args:
      compiled: a program that `jax.jit` compiled.
      arguments: its arguments by the names that the line has for them.
      available: bytes of a device.
      fields: config fields that reduce an argument's memory, by its name, and `ACTIVATIONS`.

    Raises:
      InputError: the program needs more memory than a device has.
    """
    needed = of(compiled)
    if needed is None:
        return "memory per device: unknown, the backend does not report it"
    listed = {name: arrays(tree, name) for name, tree in arguments.items()}
    sizes = {name: sum(array.bytes for array in members) for name, members in listed.items()}
    sizes[ACTIVATIONS] = needed.temporaries + needed.libraries
    parts = ", ".join(f"{name} {shown(size)}" for name, size in sizes.items() if size)
    line = f"memory per device: {shown(needed.peak)} of {shown(available)} ({parts})"
    if needed.peak <= available:
        return line
    largest = sorted([*itertools.chain(*listed.values()), *temporaries(compiled)], reverse=True)[:3]
    named = "; ".join(f"{array.description}, {shown(array.bytes)}" for array in largest)
    by_size = sorted(sizes, key=sizes.__getitem__, reverse=True)
    worth = [name for name in by_size if sizes[name] >= _WORTH * needed.peak]
    advice = list(dict.fromkeys(field for name in worth for field in fields.get(name, ())))
    ways = f"; to need less, set {', '.join(advice)}" if advice else ""
    raise errors.InputError(f"{line} is too much; largest arrays: {named}{ways}")


def of(compiled: Any) -> Footprint | None:
    """Returns the footprint of a compiled program; None if its backend does not report it."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    libraries = scratch.largest(compiled.as_text()) if _is_for_cpu(compiled) else None
    return Footprint(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes - stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.generated_code_size_in_bytes,
        libraries.bytes if libraries else 0,
    )


def _is_for_cpu(compiled: Any) -> bool:
    """Returns True for a CPU program, whose libraries allocate memory outside of XLA's plan."""
    shardings = jax.tree.leaves((compiled.input_shardings, compiled.output_shardings))
    return any(device.platform == "cpu" for device in shardings[0].device_set)


class Array(NamedTuple):
    """An array of a program on each device.

    Attributes:
      bytes: its size.
      description: its type and shape, and where it belongs.
    """

    bytes: int
    description: str


def arrays(tree: Any, name: str) -> list[Array]:
    """Returns the arrays of an argument of a program.

    Args:
      tree: the argument.
      name: of the argument, for descriptions.
    """
    members = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue  # A key takes a few bytes.
        shape = leaf.sharding.shard_shape(leaf.shape)
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        description = f"{_shown(leaf.dtype.name, shape)} of {name} ({where})"
        members.append(Array(math.prod(shape) * leaf.dtype.itemsize, description))
    return members


def temporaries(compiled: Any) -> list[Array]:
    """Returns the intermediate arrays of a compiled program, largest first.

    Not all of them exist at the same time.
    """
    text = compiled.as_text()
    program = hlo.parse(text)
    # Arrays inside a fusion are never written.
    inside = {
        name for i in program.instructions.values() if i.opcode == "fusion" for name in i.called
    }
    written = (lines for name, lines in program.computations.items() if name not in inside)
    members = {
        Array(result.size * result.item, _named(result, instruction))
        for instruction in itertools.chain(*written)
        if instruction.opcode not in _NO_ARRAY
        for result in instruction.results
    }
    if _is_for_cpu(compiled) and (most := scratch.largest(text)):
        where = _where(most.instruction.op_name)
        members.add(Array(most.bytes, f"patches of a convolution{where}"))
    return sorted(members, reverse=True)


def shown(size: float) -> str:
    """Formats a number of bytes."""
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


def _named(result: hlo.Array, instruction: hlo.Instruction) -> str:
    dtype = _NAMES.get(result.dtype, result.dtype)
    return f"{_shown(dtype, result.shape)}{_where(instruction.op_name)}"


def _where(op_name: str) -> str:
    """Returns the parts of an instruction's name that tell where an array belongs."""
    kept = [re.sub(r"^.*\(([\w.]*)\)+$", r"\1", part) for part in op_name.split("/")[1:-1]]
    kept = [part for part in kept if part and part not in ("while", "body", "closed_call")]
    return f" in {'/'.join(dict.fromkeys(kept))}" if kept else ""


def _shown(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {'x'.join(map(str, shape)) or 'scalar'}"
