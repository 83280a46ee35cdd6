"""Writes splits in the shuffled order of TFDS, without TensorFlow."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
import tqdm
from tensorflow_datasets.core import hashing
from tensorflow_datasets.core.utils import shard_utils

from rrd_jax import errors

# Number of examples that are read before they are changed.
_CHUNK = 64


@dataclasses.dataclass(frozen=True)
class Examples:
    """Random access to the examples of a split before it is written.

    Attributes:
      keys: key of each example; the keys determine the order of the written examples.
      size: approximate size of all examples in bytes; it determines the number of files.
      read: position in `keys` -> example with encoded images.
      reading: returns a context manager for reading the examples of one file, to convert errors.
      change: example -> changed example; runs in several threads.
    """

    keys: Sequence[str | int]
    size: int
    read: Callable[[int], dict[str, Any]]
    reading: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    change: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def read_all(self, positions: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Yields the examples at some positions, in this order."""
        if not self.change:
            yield from map(self.read, positions)
            return
        with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            # Chunks limit the memory, because unchanged images may be large.
            for first in range(0, len(positions), _CHUNK):
                read = map(self.read, positions[first : first + _CHUNK])
                yield from pool.map(self.change, read)


class OrderedBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A builder whose splits are Examples.

    TFDS's shuffler needs TensorFlow for splits above one gigabyte and copies the splits on disk.
    This builder sorts only the keys, by the same hash, and reads each example when it is written.

    Attributes:
      manual_dir: folder of the source files.
      verify: whether the source files must be the published files.
      change: split -> changed split, applied before writing.
      write_note: folder -> None; writes a note about the set next to TFDS's metadata.
    """

    manual_dir = ""
    verify = True
    change: Callable[[Examples], Examples] | None = None
    write_note: Callable[[str], None] | None = None

    def _examples(self) -> Mapping[str, Examples]:
        """Returns the splits by name; called only when the set is written."""
        raise NotImplementedError

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, Sequence[Callable]]:
        del dl_manager
        splits = self._examples()
        if self.change:
            splits = {split: self.change(examples) for split, examples in splits.items()}
        if self.write_note:
            self.write_note(self.data_dir)
        needed = sum(examples.size for examples in splits.values())
        free = shutil.disk_usage(self.data_dir).free
        if free < needed:
            raise errors.DiskError(
                f"{self.data_dir_root} has {free / 1e9:.1f} GB free, but"
                f" '{self.name}' needs {needed / 1e9:.1f} GB; set --data_dir to another folder"
            )
        return {split: _shards(self.name, split, examples) for split, examples in splits.items()}


def _shards(name: str, split: str, examples: Examples) -> list[Callable[[], Iterator]]:
    """Returns a function for each file of a split that yields the file's keys and examples."""
    order = _shuffled(name, split, examples.keys)
    count = shard_utils.ShardConfig().get_number_shards(examples.size, len(order))
    bar = tqdm.tqdm(desc=f"writing {split}", total=len(order), unit=" images", disable=None)

    def shard(first: int, last: int) -> Iterator[tuple[str | int, dict[str, Any]]]:
        # Other splits were written first, so the clock of the bar restarts.
        if first == 0:
            bar.reset()
        with examples.reading():
            # Sequential reads are faster on hard disks. TFDS holds the examples of a file in memory
            # anyway.
            loaded = {}
            positions = sorted(order[first:last])
            for i, example in zip(positions, examples.read_all(positions), strict=True):
                loaded[i] = example
                bar.update()
        for i in order[first:last]:
            yield examples.keys[i], loaded[i]
        if last == len(order):
            bar.close()

    ends = shard_utils.get_shard_boundaries(len(order), count)
    starts = [0, *ends[:-1]]
    return [functools.partial(shard, *ends) for ends in zip(starts, ends, strict=True)]


def _shuffled(name: str, split: str, keys: Sequence[str | int]) -> list[int]:
    """Returns the positions of the keys, sorted by TFDS's hash of the keys."""
    hasher = hashing.Hasher(split)
    hashes = [hasher.hash_key(key) for key in keys]
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    if not order:
        raise errors.InputError(
            f"'{name}' has no images for split '{split}'; add images to the split"
        )
    for i, j in itertools.pairwise(order):
        if hashes[i] == hashes[j]:
            raise errors.InputError(
                f"'{name}' has two images '{keys[i]}' in split '{split}'; remove or rename one"
            )
    return order
