"""Writes the splits of a set in the order that TFDS shuffles them into, without TensorFlow."""

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

_AT_ONCE = 64  # examples that are read before they are changed


@dataclasses.dataclass(frozen=True)
class Examples:
    """Random access to the examples of a split before it is written.

    Attributes:
      keys: a key for each example; they alone decide the order in which examples are written.
      size: of all examples in bytes, about; it decides the number of files.
      read: the example at a place in `keys`, ready to be stored: images are encoded.
      reading: around each file's worth of reading, for what can go wrong.
      change: what is made of an example that was read; several at once, in threads.
    """

    keys: Sequence[str | int]
    size: int
    read: Callable[[int], dict[str, Any]]
    reading: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    change: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def read_all(self, places: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The examples at some places, read one after the other."""
        if not self.change:
            yield from map(self.read, places)
            return
        with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for first in range(0, len(places), _AT_ONCE):  # images that came may be large
                read = map(self.read, places[first : first + _AT_ONCE])
                yield from pool.map(self.change, read)


class OrderedBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A builder whose splits are Examples.

    TFDS's own shuffler needs TensorFlow for splits above a gigabyte, and copies them on disk.
    Here only the keys are sorted, by the same hash, and an example is read when its turn comes.

    Attributes:
      manual_dir: the folder of the source files.
      verify: whether these must be the published ones.
      change: what to make of a split before it is written.
      write_note: (folder) -> None; writes what the set says of itself beside TFDS's notes.
    """

    manual_dir = ""
    verify = True
    change: Callable[[Examples], Examples] | None = None
    write_note: Callable[[str], None] | None = None

    def _examples(self) -> Mapping[str, Examples]:
        """The splits by name; called once the set is to be written."""
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
                f" '{self.name}' needs {needed / 1e9:.1f}: name another folder with --data_dir"
            )
        return {split: _shards(self.name, split, examples) for split, examples in splits.items()}


def _shards(name: str, split: str, examples: Examples) -> list[Callable[[], Iterator]]:
    """For each file of a split, what yields the keys and examples to write into it."""
    order = _shuffled(name, split, examples.keys)
    number = shard_utils.ShardConfig().get_number_shards(examples.size, len(order))
    bar = tqdm.tqdm(desc=f"writing {split}", total=len(order), unit=" images", disable=None)

    def shard(first: int, last: int) -> Iterator[tuple[str | int, dict[str, Any]]]:
        if first == 0:
            bar.reset()  # its clock: other splits came first
        with examples.reading():
            # In the order of the source: a disk's head moves one way. TFDS keeps a file's worth of
            # examples in memory in any case.
            ready = {}
            places = sorted(order[first:last])
            for i, example in zip(places, examples.read_all(places), strict=True):
                ready[i] = example
                bar.update()
        for i in order[first:last]:
            yield examples.keys[i], ready[i]
        if last == len(order):
            bar.close()

    ends = shard_utils.get_shard_boundaries(len(order), number)
    starts = [0, *ends[:-1]]
    return [functools.partial(shard, *ends) for ends in zip(starts, ends, strict=True)]


def _shuffled(name: str, split: str, keys: Sequence[str | int]) -> list[int]:
    """The places of the keys, sorted by TFDS's hash of each."""
    hasher = hashing.Hasher(split)
    hashes = [hasher.hash_key(key) for key in keys]
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    if not order:
        raise errors.InputError(f"'{name}' has no images for split '{split}'")
    for i, j in itertools.pairwise(order):
        if hashes[i] == hashes[j]:
            raise errors.InputError(f"'{name}' has two images '{keys[i]}' in split '{split}'")
    return order
