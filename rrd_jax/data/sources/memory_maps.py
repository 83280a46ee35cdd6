"""Pickles objects whose arrays are memory-mapped files as paths, without the content."""

import io
import os
from typing import Any, NamedTuple

import cloudpickle
import numpy as np

# Number and size in bytes of the blocks that are compared with the file.
_BLOCKS, _BLOCK_SIZE = 64, 4096
# Bytes that are compared at once if every byte is compared.
_CHUNK_SIZE = 1 << 24


class Place(NamedTuple):
    """An array in a file.

    Attributes:
      path: path of the file.
      start: first byte of the memory map.
      size: size of the memory map in bytes.
      offset: offset of the first element in the memory map, in bytes.
      shape: shape of the array.
      dtype: type of the elements.
      strides: strides of the array in bytes.
    """

    path: str
    start: int
    size: int
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...]

    def open(self) -> np.ndarray:
        """Maps the file into memory, read-only."""
        return np.ndarray(
            self.shape,
            self.dtype,
            np.memmap(self.path, np.uint8, "r", self.start, (self.size,)),
            self.offset,
            self.strides,
        )


def dumps(value: Any) -> bytes:
    """Pickles an object; see `cloudpickle.dumps`. Memory maps become paths."""
    with io.BytesIO() as file:
        _Pickler(file).dump(value)
        return file.getvalue()


def place(array: np.ndarray) -> Place | None:
    """Returns the place of an array in a file.

    None if the array is not a part of a memory map, or if the file no longer has the content of the
    memory map.
    """
    root = array
    while isinstance(root, np.ndarray) and isinstance(root.base, np.ndarray):
        root = root.base
    # Arrays of a file without a name, and of other buffers, have no path.
    if not isinstance(root, np.memmap) or not root.filename or array.dtype.hasobject:
        return None
    offset = _address(array) - _address(root)
    path, strides = os.path.abspath(root.filename), array.strides
    stored = Place(path, root.offset, root.nbytes, offset, array.shape, array.dtype, strides)
    return stored if root.size and _is_current(root, stored) else None


class _Pickler(cloudpickle.Pickler):
    """A pickler that replaces memory maps by their places."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray) and (stored := place(obj)):
            return Place.open, (stored,)
        return super().reducer_override(obj)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _is_current(root: np.memmap, stored: Place) -> bool:
    """Returns True if the file has the content of a memory map, by some blocks of bytes.

    With copy on write, an array may differ from its file, so every byte is compared.
    """
    try:
        current = np.memmap(stored.path, np.uint8, "r", stored.start, (stored.size,))
    # The file was deleted or truncated in the meantime.
    except (OSError, ValueError):
        return False
    mapped = np.asarray(root).ravel(order="K").view(np.uint8)
    if root.mode == "c":
        firsts, size = range(0, stored.size, _CHUNK_SIZE), _CHUNK_SIZE
    else:
        last = max(0, stored.size - _BLOCK_SIZE)
        firsts, size = sorted(set(np.linspace(0, last, _BLOCKS, dtype=int).tolist())), _BLOCK_SIZE
    return all(np.array_equal(mapped[i : i + size], current[i : i + size]) for i in firsts)
