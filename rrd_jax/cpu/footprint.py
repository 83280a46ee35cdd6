"""The memory that a compiled program takes on each device, and what is largest in it."""

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax

from rrd_jax import errors
from rrd_jax.cpu import hlo, scratch

_NAMES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32", "s32": "int32", "u8": "uint8"}
ON_THE_WAY = "what it makes on the way"
_WORTH = 0.05  # of the whole, from which a field that lessens it is named
# What takes no memory of its own.
_NO_ARRAY = (
    *("parameter", "get-tuple-element", "bitcast", "tuple", "constant"),
    *("while", "conditional", "call"),
)


class Footprint(NamedTuple):
    """Bytes of a compiled program on each device, as XLA plans them, and of a CPU's libraries.

    Attributes:
      arguments: what it is given.
      results: what it returns and does not write over what it is given.
      temporaries: what it keeps on the way.
      program: its code, on devices that hold it.
      libraries: what those that a CPU computes with take for themselves, about.
    """

    arguments: int
    results: int
    temporaries: int
    program: int
    libraries: int = 0

    @property
    def peak(self) -> int:
        """All of it."""
        return sum(self)


def described(
    compiled: Any, given: Mapping[str, Any], there: int, fields: Mapping[str, Iterable[str]]
) -> str:
    """What memory a compiled step takes on each device, in a line.

    Args:
      compiled: as `jax.jit` compiled it.
      given: what it is given, by what is said of it.
      there: bytes of a device.
      fields: those that lessen what is given, by the same names, and `ON_THE_WAY`.

    Raises:
      InputError: it is more than there is.
    """
    needed = of(compiled)
    if needed is None:
        return "what memory a step takes is not known: the backend does not say"
    known = {name: arrays(tree, name) for name, tree in given.items()}
    sizes = {name: sum(array.bytes for array in found) for name, found in known.items()}
    sizes[ON_THE_WAY] = needed.temporaries + needed.libraries
    listed = ", ".join(f"{shown(size)} {name}" for name, size in sizes.items() if size)
    whole = f"a step takes {shown(needed.peak)} of each device's {shown(there)}: {listed}"
    if needed.peak <= there:
        return whole
    largest = sorted([*itertools.chain(*known.values()), *temporaries(compiled)], reverse=True)[:3]
    named = "; ".join(f"{array.what}, {shown(array.bytes)}" for array in largest)
    by_size = sorted(sizes, key=sizes.__getitem__, reverse=True)
    worth = [name for name in by_size if sizes[name] >= _WORTH * needed.peak]
    helping = list(dict.fromkeys(field for name in worth for field in fields.get(name, ())))
    ways = f". Less is needed with {', '.join(helping)}" if helping else ""
    raise errors.InputError(f"{whole}. The largest arrays: {named}{ways}")


def of(compiled: Any) -> Footprint | None:
    """The footprint of a program that `jax.jit` compiled; None where its backend does not say."""
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
    """Whether a program is compiled for a CPU: elsewhere libraries are given memory by XLA."""
    shardings = jax.tree.leaves((compiled.input_shardings, compiled.output_shardings))
    return any(device.platform == "cpu" for device in shardings[0].device_set)


class Array(NamedTuple):
    """An array of a program on each device.

    Attributes:
      bytes: that it takes.
      what: its type and shape, and where it belongs.
    """

    bytes: int
    what: str


def arrays(tree: Any, name: str) -> list[Array]:
    """The arrays of a tree that a program is given, `name` for short."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue  # of a few bytes
        shape = leaf.sharding.shard_shape(leaf.shape)
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        what = f"{_shown(leaf.dtype.name, shape)} of {name} ({where})"
        found.append(Array(math.prod(shape) * leaf.dtype.itemsize, what))
    return found


def temporaries(compiled: Any) -> list[Array]:
    """The arrays that a compiled program makes on the way, largest first.

    They need not all be there at once.
    """
    text = compiled.as_text()
    program = hlo.parse(text)
    inside = {
        name for i in program.instructions.values() if i.opcode == "fusion" for name in i.called
    }  # what is inside of a fusion is never written
    written = (lines for name, lines in program.computations.items() if name not in inside)
    found = {
        Array(result.size * result.item, _named(result, instruction))
        for instruction in itertools.chain(*written)
        if instruction.opcode not in _NO_ARRAY
        for result in instruction.results
    }
    if _is_for_cpu(compiled) and (most := scratch.largest(text)):
        found.add(Array(most.bytes, f"patches of a convolution{_where(most.instruction.op_name)}"))
    return sorted(found, reverse=True)


def shown(size: float) -> str:
    """Bytes, as a person reads them."""
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


def _named(result: hlo.Array, instruction: hlo.Instruction) -> str:
    dtype = _NAMES.get(result.dtype, result.dtype)
    return f"{_shown(dtype, result.shape)}{_where(instruction.op_name)}"


def _where(op_name: str) -> str:
    """The parts of an instruction's name that say whose an array is."""
    kept = [re.sub(r"^.*\(([\w.]*)\)+$", r"\1", part) for part in op_name.split("/")[1:-1]]
    kept = [part for part in kept if part and part not in ("while", "body", "closed_call")]
    return f" in {'/'.join(dict.fromkeys(kept))}" if kept else ""


def _shown(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {'x'.join(map(str, shape)) or 'scalar'}"
