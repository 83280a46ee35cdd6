"""Two ways to feed training: a split that lies on the device, or batches decoded as they are used.

The order is a function of (seed, step) alone, so a restart needs no state. Epoch e visits a
permutation drawn from (seed, e), and its last partial batch is dropped.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from rrd_jax.data.augment.views import FRESH, Views
from rrd_jax.data.feeds import batch_loading, image_cache
from rrd_jax.data.feeds.batch_loading import HostBatch
from rrd_jax.data.images import transforms


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, batch_size: int, examples: int) -> np.ndarray:
    """[steps, batch_size] int32 indices of the examples that the steps of an epoch see."""
    steps = examples // batch_size
    index = np.random.default_rng((seed, epoch)).permutation(examples)[: steps * batch_size]
    return index.reshape(steps, batch_size).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Resident:
    """A split that is decoded into memory at its first use; for training, that of every device.

    Attributes:
      examples: random access to examples with `image` (encoded or array) and `label`.
      size: height and width that the networks see.
      channels: 1 or 3; images stored otherwise are converted.
    """

    examples: Any
    size: int
    channels: int
    on_device: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.examples)

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
        pixels = np.empty((len(self), self.size, self.size, self.channels), np.uint8)
        labels = np.empty(len(self), np.int32)
        # Not in threads: a small image is decoded faster than it is handed from thread to thread.
        for i in range(len(self)):
            example = self.examples[i]
            image = transforms.decode_or_black(example, i, self.channels, self.size)
            pixels[i] = transforms.pad_or_resize(image, self.size)
            labels[i] = example["label"]
        return pixels, labels

    def images_at(
        self, index: np.ndarray, batch_size: int, process_share: tuple[int, int] = (0, 1)
    ) -> Iterator[np.ndarray]:
        """Batches of images [b, size, size, channels] uint8, without a view of them.

        Args:
          index: [N] of images, a multiple of `batch_size`.
          batch_size: images a batch, over all processes.
          process_share: (i, n) for what process i of n feeds: its share of each batch.
        """
        places = np.asarray(_places(batch_size, process_share))
        for batch in index.reshape(-1, batch_size):
            yield self.images[batch[places]]

    def test_batches(
        self, batch_size: int, process_share: tuple[int, int] = (0, 1)
    ) -> Iterator[HostBatch]:
        """All examples in order, and black ones after the last to fill its batch.

        Args:
          batch_size: images a batch, over all processes.
          process_share: (i, n) for what process i of n feeds: its share of each batch.
        """
        places = _places(batch_size, process_share)
        for first in range(0, len(self), batch_size):
            rows = slice(first + places.start, first + places.stop)
            labels = self.labels[rows]
            fill = (0, len(places) - len(labels))
            image = np.pad(self.images[rows], (fill, (0, 0), (0, 0), (0, 0)))
            yield {"image": image, "label": np.pad(labels, fill)}


@dataclasses.dataclass(frozen=True)
class Streamed:
    """A split that is read and decoded as it is used.

    Attributes:
      examples: random access to examples with `image` (encoded or array) and `label`.
      size: height and width that the networks see.
      channels: 1 or 3; images stored otherwise are converted.
      resize: short side before the central crop at test time, with random-resized crops for
        training; None to pad or resize images as Resident does, for a crop in the step.
      workers: processes that decode; 0 for threads of this one.
      threads: that decode where there are no workers; 0 for two a core.
      area: the smallest part of an image that a random-resized crop is, in (0, 1].
      views: of which random-resized crops are parts.
      by_parts: whether no more of a JPEG is decoded than such a crop, to the same pixels.
      keep: which decoded images are cached in memory during training.
    """

    examples: Any
    size: int
    channels: int
    resize: int | None = None
    workers: int = 0
    threads: int = 0
    area: float = 0.08
    views: Views = FRESH
    by_parts: bool = False
    keep: image_cache.CacheOptions = image_cache.NO_CACHE
    on_device: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.examples)

    @functools.cached_property
    def _cache(self) -> image_cache.ImageCache | None:
        """Created once images are used again; then one process decodes them, in threads."""
        size = None if self.resize else self.size
        return image_cache.make_cache(self.keep, self.examples, size, self.channels)

    def train_batches(
        self,
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        process_share: tuple[int, int] = (0, 1),
    ) -> Iterator[HostBatch]:
        """Batches of the steps start..stop-1: `image`, `label`, and `index` in the split.

        Random-resized crops and flips are drawn from (seed, epoch, index), or where there are
        `views`, from the view, which is in `view` then.

        Args:
          batch_size: images a step, over all processes.
          seed: of order and crops.
          start: the first step.
          stop: the step after the last.
          process_share: (i, n) for what process i of n feeds: its share of each batch.
        """
        cache = self._cache if stop - start > len(self) // batch_size else None

        def load(step: int, place: int) -> HostBatch:
            epoch, row = divmod(step, len(self) // batch_size)
            index = int(epoch_order(seed, epoch, batch_size, len(self))[row, place])
            known, key = {"index": np.int32(index)}, (seed, epoch, index)
            if self.views.count:
                known["view"] = self.views.of_epoch(seed, epoch, len(self))[index]
                key = self.views.key(index, int(known["view"]))
            image, label = self._train_image(index, key, cache)
            return {"image": image, "label": label, **known}

        workers = self.workers if cache is None else 0
        return self._batches(load, start, stop, _places(batch_size, process_share), workers)

    def test_batches(
        self, batch_size: int, process_share: tuple[int, int] = (0, 1)
    ) -> Iterator[HostBatch]:
        """As Resident's, scaled and cropped."""

        def load(step: int, place: int) -> HostBatch:
            index = step * batch_size + place
            if index >= len(self):
                black = np.zeros((self.size, self.size, self.channels), np.uint8)
                return {"image": black, "label": np.int32(0)}
            image, label = self._read(index)
            if self.resize:
                image = transforms.center_crop(image, self.size, self.resize)
            return {"image": image, "label": label}

        steps = -(-len(self) // batch_size)
        return self._batches(load, 0, steps, _places(batch_size, process_share), self.workers)

    def images_at(
        self, index: np.ndarray, batch_size: int, process_share: tuple[int, int] = (0, 1)
    ) -> Iterator[np.ndarray]:
        """As Resident's; of random-resized crops, all views: [b, views, size, size, channels]."""

        def load(step: int, place: int) -> HostBatch:
            which = int(index[step * batch_size + place])
            image, _ = self._read(which)
            if not self.resize:
                return {"image": image}
            keys = [self.views.key(which, view) for view in range(self.views.count)]
            return {"image": np.stack([self._cut(image, key) for key in keys])}

        steps = len(index) // batch_size
        places = _places(batch_size, process_share)
        batches = self._batches(load, 0, steps, places, self.workers)
        with contextlib.closing(batches):
            for batch in batches:
                yield batch["image"]

    def _train_image(
        self, index: int, key: tuple[int, ...], cache: image_cache.ImageCache | None
    ) -> tuple[np.ndarray, np.int32]:
        """What the host makes of an image, a function of the index and the key, and its label."""
        if cache is not None or not self.resize:
            image, label = self._read(index) if cache is None else cache.get(index, self._read)
            return (self._cut(image, key) if self.resize else image), label
        example = self.examples[index]
        image = transforms.random_crop_or_black(
            example,
            index,
            self.channels,
            self.size,
            self.area,
            functools.partial(np.random.default_rng, key),
            by_parts=self.by_parts,
        )
        return image, np.int32(example["label"])

    def _cut(self, image: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        return transforms.random_resized_crop(
            np.random.default_rng(key), image, self.size, self.area
        )

    def _read(self, index: int) -> tuple[np.ndarray, np.int32]:
        """An image, in the networks' size where it is the step that crops, and its label."""
        example = self.examples[index]
        image = transforms.decode_or_black(example, index, self.channels, self.size)
        if not self.resize:
            image = transforms.pad_or_resize(image, self.size)
        return image, np.int32(example["label"])

    def _batches(
        self,
        load: Callable[[int, int], HostBatch],
        start: int,
        stop: int,
        places: range,
        workers: int,
    ) -> Iterator[HostBatch]:
        """Batches of load(step, place) for the given places of the steps start..stop-1."""
        size = len(places)

        def load_position(position: int) -> HostBatch:
            step, place = divmod(position, size)
            return load(step, places[place])

        return batch_loading.batches(
            load_position,
            start * size,
            stop * size,
            size,
            workers=workers,
            threads=self.threads,
        )


@dataclasses.dataclass(frozen=True)
class _Some(Sequence):
    """Examples at some places of others."""

    examples: Any
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> Any:
        return self.examples[int(self.places[i])]


def some(split: Resident | Streamed, places: np.ndarray) -> Resident | Streamed:
    """The split of the examples at these places, or the split itself where these are all."""
    if len(places) == len(split):
        return split
    return dataclasses.replace(split, examples=_Some(split.examples, places))


def _places(batch_size: int, process_share: tuple[int, int]) -> range:
    """The places in a batch that process i of n feeds."""
    i, n = process_share
    return range(batch_size * i // n, batch_size * (i + 1) // n)
