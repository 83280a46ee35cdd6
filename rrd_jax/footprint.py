"""The memory that a compiled program takes on each device, and what is largest in it."""

import itertools
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from rrd_jax import errors

_ARRAY = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = (\w+)\[([\d,]+)\]\S* ([\w-]+)\(")
_SCOPE = re.compile(r'op_name="([^"]*)"')
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}
_NAMES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32", "s32": "int32", "u8": "uint8"}
# What takes no memory of its own.
_NO_ARRAY = ("parameter", "get-tuple-element", "bitcast", "tuple", "constant")


class Footprint(NamedTuple):
    """Bytes of a compiled program on each device, as XLA plans them.

    Attributes:
      arguments: what it is given.
      results: what it returns and does not write over what it is given.
      temporaries: what it keeps on the way.
      program: its code, on devices that hold it.
    """

    arguments: int
    results: int
    temporaries: int
    program: int

    @property
    def peak(self) -> int:
        """All of it."""
        return sum(self)


def described(compiled: Any, given: Mapping[str, Any], there: int) -> str:
    """What memory a compiled step takes on each device, in a line.

    Args:
      compiled: as `jax.jit` compiled it.
      given: what it is given, by what is said of it.
      there: bytes of a device.

    Raises:
      InputError: it is more than there is.
    """
    needed = of(compiled)
    if needed is None:
        return "what memory a step takes is not known: the backend does not say"
    known = {name: arrays(tree, name) for name, tree in given.items()}
    parts = [(sum(array.bytes for array in found), name) for name, found in known.items()]
    parts.append((needed.temporaries, "what it makes on the way"))
    listed = ", ".join(f"{shown(size)} {name}" for size, name in parts if size)
    whole = f"a step takes {shown(needed.peak)} of each device's {shown(there)}: {listed}"
    if needed.peak <= there:
        return whole
    largest = sorted([*itertools.chain(*known.values()), *temporaries(compiled)], reverse=True)[:3]
    named = "; ".join(f"{array.what}, {shown(array.bytes)}" for array in largest)
    raise errors.InputError(
        f"{whole}. The largest arrays: {named}. Less is needed with a smaller train.batch_size, a"
        " larger train.accumulate, train.remat=convolutions, data.feed=streamed, teacher.cache=off"
        " or a smaller queue of the objective"
    )


def of(compiled: Any) -> Footprint | None:
    """The footprint of a program that `jax.jit` compiled; None where its backend does not say."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    return Footprint(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes - stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.generated_code_size_in_bytes,
    )


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
    found, is_inside = set(), False
    for line in compiled.as_text().splitlines():
        if line.endswith("{") and not line.startswith(" "):
            # What is inside of a fusion is never written.
            is_inside = "fused" in line.split("(")[0] or "wrapped" in line.split("(")[0]
        match = None if is_inside else _ARRAY.match(line)
        if not match or match[3] in _NO_ARRAY:
            continue
        dtype, shape = match[1], tuple(map(int, match[2].split(",")))
        scope = _SCOPE.search(line)
        size = math.prod(shape) * _BYTES.get(dtype, 4)
        found.add(Array(size, f"{_shown(_NAMES.get(dtype, dtype), shape)}{_where(scope)}"))
    return sorted(found, reverse=True)


def shown(size: float) -> str:
    """Bytes, as a person reads them."""
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


def _where(scope: re.Match[str] | None) -> str:
    """The parts of a program's name that say whose an array is."""
    parts = scope[1].split("/") if scope else []
    kept = [re.sub(r"^.*\(([\w.]*)\)+$", r"\1", part) for part in parts[1:-1]]
    kept = [part for part in kept if part and part not in ("while", "body", "closed_call")]
    return f" in {'/'.join(dict.fromkeys(kept))}" if kept else ""


def _shown(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {'x'.join(map(str, shape)) or 'scalar'}"
