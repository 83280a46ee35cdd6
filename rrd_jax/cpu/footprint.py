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
# Parts below this share of the total do not appear in the advice.
_RELEVANT_SHARE = 0.05
# Instructions that allocate no memory.
_NO_MEMORY = (
    *("parameter", "get-tuple-element", "bitcast", "tuple", "constant"),
    *("while", "conditional", "call"),
)


class Footprint(NamedTuple):
    """The memory of a compiled program on each device, in bytes: XLA's plan and library scratch.

    Attributes:
      arguments: arguments.
      results: results, except results that are written over donated arguments.
      temporaries: intermediate arrays.
      program: code, on devices that store the code in their memory.
      libraries: estimated scratch memory of the libraries that a CPU computes with.
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


def describe(
    compiled: Any,
    arguments: Mapping[str, Any],
    available: int,
    fields: Mapping[str, Iterable[str]],
) -> str:
    """Describes in one line the memory that a compiled step needs on each device.

    Args:
      compiled: a program that `jax.jit` compiled.
      arguments: the program's arguments, by their names in the line.
      available: memory of a device, in bytes.
      fields: config settings that reduce the memory of an argument or of `ACTIVATIONS`, by name.

    Raises:
      InputError: the program needs more memory than a device has.
    """
    needed = measure(compiled)
    if needed is None:
        return "memory per device: unknown, the backend does not report it"
    listed = {name: argument_arrays(tree, name) for name, tree in arguments.items()}
    sizes = {name: sum(array.bytes for array in members) for name, members in listed.items()}
    sizes[ACTIVATIONS] = needed.temporaries + needed.libraries
    parts = ", ".join(f"{name} {format_size(size)}" for name, size in sizes.items() if size)
    line = f"memory per device: {format_size(needed.peak)} of {format_size(available)} ({parts})"
    if needed.peak <= available:
        return line
    largest = sorted([*itertools.chain(*listed.values()), *temporaries(compiled)], reverse=True)[:3]
    listing = "; ".join(f"{array.description}, {format_size(array.bytes)}" for array in largest)
    by_size = sorted(sizes, key=sizes.__getitem__, reverse=True)
    relevant = [name for name in by_size if sizes[name] >= _RELEVANT_SHARE * needed.peak]
    advice = list(dict.fromkeys(field for name in relevant for field in fields.get(name, ())))
    remedy = f"; to reduce memory, set {', '.join(advice)}" if advice else ""
    raise errors.InputError(f"not enough device memory: {line}; largest arrays: {listing}{remedy}")


def measure(compiled: Any) -> Footprint | None:
    """Returns the footprint of a compiled program; None if its backend does not report it."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    libraries = scratch.largest_scratch(compiled.as_text()) if _is_for_cpu(compiled) else None
    return Footprint(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes - stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.generated_code_size_in_bytes,
        libraries.bytes if libraries else 0,
    )


def format_size(size: float) -> str:
    """Formats a number of bytes in MB or GB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def _is_for_cpu(compiled: Any) -> bool:
    """Returns True for a CPU program; its libraries allocate memory outside of XLA's plan."""
    shardings = jax.tree.leaves((compiled.input_shardings, compiled.output_shardings))
    return any(device.platform == "cpu" for device in shardings[0].device_set)


class SizedArray(NamedTuple):
    """An array of a program on each device.

    Attributes:
      bytes: size of the array.
      description: type, shape, and the argument or operation that the array belongs to.
    """

    bytes: int
    description: str


def argument_arrays(tree: Any, name: str) -> list[SizedArray]:
    """Returns the arrays of an argument of a program.

    Args:
      tree: the argument.
      name: the argument's name in descriptions.
    """
    members = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            # A key has only a few bytes.
            continue
        shape = leaf.sharding.shard_shape(leaf.shape)
        path_text = jax.tree_util.keystr(path, simple=True, separator="/")
        description = f"{_format_array(leaf.dtype.name, shape)} of {name} ({path_text})"
        members.append(SizedArray(math.prod(shape) * leaf.dtype.itemsize, description))
    return members


def temporaries(compiled: Any) -> list[SizedArray]:
    """Returns the intermediate arrays of a compiled program, largest first.

    Their lifetimes may not overlap.
    """
    text = compiled.as_text()
    program = hlo.parse(text)
    # Arrays inside a fusion are never written.
    inside = {
        name for i in program.instructions.values() if i.opcode == "fusion" for name in i.called
    }
    written = (lines for name, lines in program.computations.items() if name not in inside)
    members = {
        SizedArray(result.size * result.itemsize, _describe_result(result, instruction))
        for instruction in itertools.chain(*written)
        if instruction.opcode not in _NO_MEMORY
        for result in instruction.results
    }
    if _is_for_cpu(compiled) and (largest := scratch.largest_scratch(text)):
        location = _location(largest.instruction.op_name)
        members.add(SizedArray(largest.bytes, f"patches of a convolution{location}"))
    return sorted(members, reverse=True)


def _describe_result(result: hlo.Array, instruction: hlo.Instruction) -> str:
    dtype = _NAMES.get(result.dtype, result.dtype)
    return f"{_format_array(dtype, result.shape)}{_location(instruction.op_name)}"


def _location(op_name: str) -> str:
    """Returns the scopes in an instruction's name, as a suffix for descriptions."""
    parts = [re.sub(r"^.*\(([\w.]*)\)+$", r"\1", part) for part in op_name.split("/")[1:-1]]
    parts = [part for part in parts if part and part not in ("while", "body", "closed_call")]
    return f" in {'/'.join(dict.fromkeys(parts))}" if parts else ""


def _format_array(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {'x'.join(map(str, shape)) or 'scalar'}"
