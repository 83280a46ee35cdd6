"""Digests of arrays, independent of their sharding, and of the JSON of checkpoints."""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import deferred

futures = deferred.Library("concurrent.futures")

# Number of arrays whose sums are computed at the same time.
_THREADS = 4
# Hexadecimal digits of a digest.
_LENGTH = 32
# Number of elements up to which NumPy computes the sums, and of a part that fits into a core's
# cache.
_SMALL, _CHUNK = 2**20, 2**15


def digest(tree: Any) -> str:
    """Returns the digest of a tree: a hash of each leaf's dtype, shape and sums, in tree order."""
    return combine(tree, leaf_sums(tree))


def host_digest(tree: Any) -> str:
    """Returns the digest of a tree of arrays without compilation, one array at a time."""
    return combine(tree, jax.tree.map(_host_sums, tree))


def leaf_sums(tree: Any) -> Any:
    """Returns a uint32 array [3] for each array: two sums, and 1 if all elements are finite."""
    leaves, structure = jax.tree.flatten(tree)
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        sums = list(pool.map(_sums, leaves))
    return jax.device_get(jax.tree.unflatten(structure, sums))


def combine(tree: Any, sums: Any) -> str:
    """Returns the digest of a tree, given its `leaf_sums`."""
    sha = hashlib.sha256()
    for leaf, (first, second, _) in zip(jax.tree.leaves(tree), jax.tree.leaves(sums), strict=True):
        sha.update(f"{leaf.dtype}{leaf.shape}{first:08x}{second:08x}".encode())
    return sha.hexdigest()[:_LENGTH]


def verify(computed: dict[str, str], stored: dict[str, str]) -> None:
    """Raises a ValueError that names the parts whose digests differ from the stored ones."""
    if any(len(value) != _LENGTH for value in stored.values()):
        raise ValueError("written by another version of rrd_jax")
    differing = [part for part, value in computed.items() if stored.get(part) != value]
    if differing:
        raise ValueError(f"the digest does not match in {', '.join(differing)}")


def seal(meta: dict[str, Any], digests: dict[str, str]) -> dict[str, Any]:
    """Returns the JSON of a checkpoint, with a digest of the JSON, the seal.

    Args:
      meta: JSON to store.
      digests: digests of the arrays, by part.
    """
    content = json.dumps([meta, digests], sort_keys=True)
    return {
        "meta": meta,
        "digests": digests,
        "seal": hashlib.sha256(content.encode()).hexdigest(),
    }


def unseal(content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the meta and digests of `seal`; raises a ValueError if either was changed."""
    if not isinstance(content, dict):
        raise ValueError("the JSON is not an object")
    meta, digests = content.get("meta"), content.get("digests")
    if seal(meta, digests)["seal"] != content.get("seal"):
        raise ValueError("the digest of the JSON does not match")
    return meta, digests


# A program for a whole tree would take minutes to compile.
@jax.jit
def _leaf_sums(leaf: jax.Array) -> jax.Array:
    """Returns a uint32 array [3]: two sums over an array's words, and 1 if all are finite.

    Words are weighted by position. Every change of a single word changes the first sum. Sums of
    integers depend neither on the order of the terms nor on the sharding.
    """
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}"))
    position = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        position = position * np.uint32(size) + jax.lax.broadcasted_iota(
            jnp.uint32, leaf.shape, axis
        )
    words, weight = words.astype(jnp.uint32), _scramble(position)
    first = jnp.sum(words * (weight | 1), dtype=jnp.uint32)
    second = jnp.sum(_scramble(words ^ weight), dtype=jnp.uint32)
    return jnp.stack([first, second, jnp.isfinite(leaf).all().astype(jnp.uint32)])


def _sums(leaf: Any) -> Any:
    """Returns `_leaf_sums` of an array; NumPy for small ones, because XLA compiles each shape."""
    # Leaves can be arrays in files.
    leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    is_small = leaf.size <= _SMALL and getattr(leaf, "is_fully_addressable", True)
    if is_small and all(device.platform == "cpu" for device in _devices(leaf)):
        return _host_sums(np.asarray(leaf))
    sums = _leaf_sums(leaf)
    # An array of the host, perhaps read from a file, must not wait in memory for its sums.
    return sums if isinstance(leaf, jax.Array) else jax.block_until_ready(sums)


def _devices(leaf: Any) -> Any:
    return leaf.devices() if isinstance(leaf, jax.Array) else ()


def _host_sums(leaf: Any) -> np.ndarray:
    """Computes `_leaf_sums` in NumPy."""
    flat = np.ascontiguousarray(leaf).reshape(-1)
    words = flat.view(f"uint{8 * flat.dtype.itemsize}")
    first, second, is_finite = 0, 0, True
    for start in range(0, flat.size, _CHUNK):
        chunk = words[start : start + _CHUNK].astype(np.uint32)
        weight = _scramble(np.arange(start, start + chunk.size, dtype=np.uint32))
        first += int(np.sum(chunk * (weight | np.uint32(1)), dtype=np.uint32))
        second += int(np.sum(_scramble(chunk ^ weight), dtype=np.uint32))
        is_finite = is_finite and bool(np.isfinite(flat[start : start + _CHUNK]).all())
    return np.array([first % 2**32, second % 2**32, is_finite], np.uint32)


def _scramble(words: Any) -> Any:
    """Permutes 32-bit words pseudo-randomly, with the finalizer of MurmurHash3."""
    words = (words ^ (words >> 16)) * np.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * np.uint32(0xC2B2AE35)
    return words ^ (words >> 16)
