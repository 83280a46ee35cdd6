"""Two ways to feed training: a split that lies on the device, or batches decoded by Grain.

The order is a function of (seed, step) alone, so a restart needs no state: epoch e visits a
permutation drawn from (seed, e), and its last partial batch is dropped. Whoever takes batches
closes their iterator: that ends the threads or processes behind it.
"""

import contextlib
import dataclasses
import functools
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import cv2
import grain
import grain.experimental
import numpy as np

from rrd_jax import errors
from rrd_jax.data import augment

HostBatch = dict[str, np.ndarray]

cv2.setNumThreads(0)  # many images at once are decoded already: within one, threads would compete


@dataclasses.dataclass(frozen=True)
class Resident:
    """A split that is decoded into memory at its first use; for training, that of every device.

    Attributes:
      source: random access to examples with `image` (encoded or array) and `label`.
      size: height and width that the networks see.
      channels: 1 or 3; images stored otherwise are converted.
    """

    source: Any
    size: int
    channels: int
    on_device: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.source)

    @property
    def images(self) -> np.ndarray:
        """[N, size, size, channels] uint8."""
        return self._decoded[0]

    @property
    def labels(self) -> np.ndarray:
        """[N] int32."""
        return self._decoded[1]

    @functools.cached_property  # a job that evaluates, or is finished, never asks for all splits
    def _decoded(self) -> tuple[np.ndarray, np.ndarray]:
        images = np.empty((len(self), self.size, self.size, self.channels), np.uint8)
        labels = np.empty(len(self), np.int32)
        # One by one: a small image is decoded faster than it is handed from thread to thread.
        for i in range(len(self)):
            example = self.source[i]
            image = decode_or_black(example, i, self.channels, self.size)
            images[i] = augment.fit(image, self.size)
            labels[i] = _label(example)
        return images, labels

    def test_batches(self, batch_size: int, part: tuple[int, int] = (0, 1)) -> Iterator[HostBatch]:
        """All examples in order, and black ones after the last to fill its batch.

        Args:
          batch_size: images a batch, over all processes.
          part: (i, n) for what process i of n feeds: its share of each batch.
        """
        places = _places(batch_size, part)
        for first in range(0, len(self), batch_size):
            own = slice(first + places.start, first + places.stop)
            labels = self.labels[own]
            fill = (0, len(places) - len(labels))
            image = np.pad(self.images[own], (fill, (0, 0), (0, 0), (0, 0)))
            yield {"image": image, "label": np.pad(labels, fill)}


@dataclasses.dataclass(frozen=True)
class Streamed:
    """A split that is read and decoded as it is used.

    Attributes:
      source: random access to examples with `image` (encoded or array) and `label`.
      size: height and width that the networks see.
      channels: 1 or 3; images stored otherwise are converted.
      resize: short side before the central crop at test time, with random-resized crops for
        training; None to fit images as Resident does, for a crop in the step.
      workers: processes that decode; 0 for threads of this one.
      threads: that decode where there are no workers; 0 for two a core.
    """

    source: Any
    size: int
    channels: int
    resize: int | None = None
    workers: int = 0
    threads: int = 0
    on_device: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.source)

    def train_batches(
        self, batch_size: int, seed: int, start: int, stop: int, part: tuple[int, int] = (0, 1)
    ) -> Iterator[HostBatch]:
        """Batches of the steps start..stop-1: `image`, `label`, and `index` in the split.

        Random-resized crops and flips are drawn from (seed, epoch, index).

        Args:
          batch_size: images a step, over all processes.
          seed: of order and crops.
          start: the first step.
          stop: the step after the last.
          part: (i, n) for what process i of n feeds: its share of each batch.
        """
        places = _places(batch_size, part)

        def load(position: int) -> HostBatch:
            step, place = divmod(int(position), len(places))
            epoch, row = divmod(step, len(self) // batch_size)
            index = int(epoch_order(seed, epoch, batch_size, len(self))[row, places[place]])
            example = self.source[index]
            image = self._decode(example, index)
            if self.resize:
                rng = np.random.default_rng((seed, epoch, index))
                image = augment.random_resized_crop(rng, image, self.size)
            else:
                image = augment.fit(image, self.size)
            return {"image": image, "label": _label(example), "index": np.int32(index)}

        return self._read(load, start * len(places), stop * len(places), len(places))

    def test_batches(self, batch_size: int, part: tuple[int, int] = (0, 1)) -> Iterator[HostBatch]:
        """As Resident's, scaled and cropped."""
        places = _places(batch_size, part)

        def load(position: int) -> HostBatch:
            step, place = divmod(int(position), len(places))
            index = step * batch_size + places[place]
            if index >= len(self):
                black = np.zeros((self.size, self.size, self.channels), np.uint8)
                return {"image": black, "label": np.int32(0)}
            example = self.source[index]
            image = self._decode(example, index)
            if self.resize:
                image = augment.center_crop(image, self.size, self.resize)
            else:
                image = augment.fit(image, self.size)
            return {"image": image, "label": _label(example)}

        steps = -(-len(self) // batch_size)
        return self._read(load, 0, steps * len(places), len(places))

    def _decode(self, example: dict[str, Any], index: int) -> np.ndarray:
        return decode_or_black(example, index, self.channels, self.size)

    def _read(
        self, load: Callable[[int], HostBatch], start: int, stop: int, size: int
    ) -> Iterator[HostBatch]:
        """Batches of load(start), ..., load(stop - 1), the same whoever decodes."""

        def load_part(first: int, count: int) -> HostBatch:
            examples = [load(i) for i in range(int(first), int(first) + count)]
            return {name: np.stack([e[name] for e in examples]) for name in examples[0]}

        if self.workers:
            # Whole batches to a worker: with parts, batches would depend on their number.
            load_batch = functools.partial(load_part, count=size)
            return _by_workers(load_batch, start, stop, size, self.workers)
        return _by_threads(load_part, start, stop, size, self.threads or min(16, 2 * _cores()))


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _by_threads(
    load: Callable, start: int, stop: int, size: int, threads: int
) -> Iterator[HostBatch]:
    """Batches of load(first, count), a few images at once to a thread."""
    count = next(n for n in range(8, 0, -1) if size % n == 0)
    # Not whole batches: those read ahead would fill gigabytes.
    ahead = max(size // count, 2 * threads)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    firsts = grain.MapDataset.range(start, stop, count)
    parts = firsts.map(functools.partial(load, count=count)).to_iter_dataset(options)
    batches = parts.batch(size // count, batch_fn=_joined)
    batches = grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=2)
    with contextlib.closing(iter(batches)) as stream:
        yield from stream


def _joined(parts: Sequence[HostBatch]) -> HostBatch:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _by_workers(
    load: Callable, start: int, stop: int, size: int, workers: int
) -> Iterator[HostBatch]:
    """Batches of load(first), each of one process."""
    options = grain.multiprocessing.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=2
    )
    no_threads = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    firsts = grain.MapDataset.range(start, stop, size).map(load)
    stream = iter(firsts.to_iter_dataset(no_threads).mp_prefetch(options, _start_worker))
    try:
        for batch in stream:
            # A copy: the shared memory would be kept by arrays on the device, and what holds them.
            yield {name: np.array(value) for name, value in batch.items()}
    finally:
        stream.close()
        stream = batch = None
        gc.collect()  # Grain's last batches, and its semaphores, are in cycles


def _start_worker(index: int, count: int) -> None:
    """Makes a process that decodes end with its parent, and not before."""
    del index, count
    # Ctrl-C and schedulers signal whole groups of processes, but the parent is to save its state.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # a parent that was killed has closed nothing


def _places(batch_size: int, part: tuple[int, int]) -> range:
    """The places in a batch that process i of n feeds."""
    i, n = part
    return range(batch_size * i // n, batch_size * (i + 1) // n)


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, batch_size: int, examples: int) -> np.ndarray:
    """[steps, batch_size] int32 indices of the examples that the steps of an epoch see."""
    steps = examples // batch_size
    index = np.random.default_rng((seed, epoch)).permutation(examples)[: steps * batch_size]
    return index.reshape(steps, batch_size).astype(np.int32)


def decode_or_black(example: dict[str, Any], index: int, channels: int, size: int) -> np.ndarray:
    """The decoded image of an example; a black one, and a line that names it, if it is damaged.

    One bad file of a million must not end a run; and in a test split it must count.
    """
    try:
        return decode(example["image"], channels)
    except errors.InputError as error:
        name = example.get("file_name", b"")
        _warn_damaged(index, name.decode() if isinstance(name, bytes) else str(name), str(error))
        return np.zeros((size, size, channels), np.uint8)


@functools.cache  # once a process, not once an epoch
def _warn_damaged(index: int, name: str, reason: str) -> None:
    named = f"'{name}' (example {index})" if name else f"example {index}"
    print(f"warning: image {named}: {reason}; it is taken as black", file=sys.stderr)


def decode(image: Any, channels: int) -> np.ndarray:
    """[H, W, channels] uint8, RGB or grey, from an encoded image or such an array.

    Files stored with other channels (ImageNet has grey and CMYK ones) are converted.
    """
    if isinstance(image, np.ndarray):
        return image
    colour = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
    flags = colour | cv2.IMREAD_IGNORE_ORIENTATION  # the pixels as stored, as the field does
    decoded = cv2.imdecode(np.frombuffer(image, np.uint8), flags)
    if decoded is None:
        raise errors.InputError(f"an image of {len(image)} bytes cannot be decoded")
    return decoded if channels == 3 else decoded[..., None]


def _label(example: dict[str, Any]) -> np.int32:
    return np.int32(example["label"])
