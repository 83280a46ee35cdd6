"""Digests of trees of arrays: computed where the arrays are, the same however they are split."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LENGTH = 32  # hexadecimal digits
_SMALL = 2**20  # numbers; NumPy makes several copies of them


def digest(tree: Any) -> str:
    """Hashes leaf digests with dtype and shape, in tree order."""
    return combine(tree, leaf_sums(tree))


def host_digest(tree: Any) -> str:
    """The same of NumPy's arrays, without compiling anything: quick for networks of many shapes."""
    return combine(tree, jax.tree.map(_host_sums, tree))


def leaf_sums(tree: Any) -> Any:
    """The tree with three numbers, [3] uint32, for each array: two sums, and 1 if it is finite."""
    return jax.device_get(jax.tree.map(_sums, tree))


def combine(tree: Any, sums: Any) -> str:
    """The digest of a tree whose `leaf_sums` are known."""
    sha = hashlib.sha256()
    for leaf, (first, second, _) in zip(jax.tree.leaves(tree), jax.tree.leaves(sums), strict=True):
        sha.update(f"{leaf.dtype}{leaf.shape}{first:08x}{second:08x}".encode())
    return sha.hexdigest()[:_LENGTH]


def verify(computed: dict[str, str], stored: dict[str, str]) -> None:
    """Raises a ValueError that names the parts whose digest is not the stored one."""
    if any(len(value) != _LENGTH for value in stored.values()):
        raise ValueError("it was written by another version of rrd_jax")
    differing = [part for part, value in computed.items() if stored.get(part) != value]
    if differing:
        raise ValueError(f"its digest does not match in {', '.join(differing)}")


@jax.jit  # leaf by leaf: few shapes, where whole trees take minutes to compile
def _leaf_sums(leaf: jax.Array) -> jax.Array:
    """[3] uint32: two sums over the words of an array, and whether all are finite.

    Each word counts by its place. No change of a single word leaves the first sum as it was.
    Integers are added, so neither the order nor the split over devices matters.
    """
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}"))
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    words, weight = words.astype(jnp.uint32), _scramble(place)
    first = jnp.sum(words * (weight | 1), dtype=jnp.uint32)
    second = jnp.sum(_scramble(words ^ weight), dtype=jnp.uint32)
    return jnp.stack([first, second, jnp.isfinite(leaf).all().astype(jnp.uint32)])


def _sums(leaf: Any) -> Any:
    """[3] uint32 of an array, where that is cheapest: a CPU compiles half a second a shape."""
    is_small = leaf.size <= _SMALL and getattr(leaf, "is_fully_addressable", True)
    if is_small and all(device.platform == "cpu" for device in _devices(leaf)):
        return _host_sums(np.asarray(leaf))
    return _leaf_sums(leaf)


def _devices(leaf: Any) -> Any:
    return leaf.devices() if isinstance(leaf, jax.Array) else ()


def _host_sums(leaf: Any) -> np.ndarray:
    """`_leaf_sums` in NumPy."""
    flat = np.ascontiguousarray(leaf).reshape(-1)
    words = flat.view(f"uint{8 * flat.dtype.itemsize}").astype(np.uint32)
    weight = _scramble(np.arange(flat.size, dtype=np.uint32))
    first = np.sum(words * (weight | np.uint32(1)), dtype=np.uint32)
    second = np.sum(_scramble(words ^ weight), dtype=np.uint32)
    return np.array([first, second, np.isfinite(flat).all()], np.uint32)


def _scramble(words: Any) -> Any:
    """A permutation of the 32-bit words that looks random: MurmurHash3's last step."""
    words = (words ^ (words >> 16)) * np.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * np.uint32(0xC2B2AE35)
    return words ^ (words >> 16)
