"""Feeds for training: a split in device memory, or batches decoded on demand.

The order depends only on (seed, step), so a resumed run needs no state. Epoch e visits a
permutation drawn from (seed, e), and the last partial batch is dropped.
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
    """Returns int32 [steps, batch_size], the indices of the examples in each step of an epoch."""
    steps = examples // batch_size
    index = np.random.default_rng((seed, epoch)).permutation(examples)[: steps * batch_size]
    return index.reshape(steps, batch_size).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Resident:
    """A split that is decoded on first use; training copies the images to every device.

    Attributes:
      examples: random access to examples with `image` (encoded or array) and `label`.
      size: height and width of the networks' images.
      channels: 1 or 3; images with other channels are converted.
      background: color behind transparent pixels of encoded images, see `settings.kinds.Color`.
    """

    examples: Any
    size: int
    channels: int
    background: str = "white"
    on_device: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def images(self) -> np.ndarray:
        """Decoded images, uint8 [N, size, size, channels]."""
        return self._decoded[0]

    @property
    def labels(self) -> np.ndarray:
        """Labels, int32 [N]."""
        return self._decoded[1]

    # A property, because an evaluation or a finished job does not use all splits.
    @functools.cached_property
    def _decoded(self) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.empty((len(self), self.size, self.size, self.channels), np.uint8)
        labels = np.empty(len(self), np.int32)
        # Decoding a small image takes less time than passing the image between threads.
        for i in range(len(self)):
            example = self.examples[i]
            image = transforms.decode_or_black(
                example, i, self.channels, self.size, self.background
            )
            pixels[i] = transforms.pad_or_resize(image, self.size)
            labels[i] = example["label"]
        return pixels, labels

    def images_at(
        self, index: np.ndarray, batch_size: int, process_share: tuple[int, int] = (0, 1)
    ) -> Iterator[np.ndarray]:
        """Yields batches of unaugmented images, uint8 [b, size, size, channels].

        Args:
          index: [N], indices of images; N is a multiple of `batch_size`.
          batch_size: images per batch, over all processes.
          process_share: (i, n) for the share of each batch that process i of n loads.
        """
        positions = np.asarray(_process_positions(batch_size, process_share))
        for batch in index.reshape(-1, batch_size):
            yield self.images[batch[positions]]

    def test_batches(
        self, batch_size: int, process_share: tuple[int, int] = (0, 1)
    ) -> Iterator[HostBatch]:
        """Yields all examples in order; black images fill the last batch.

        Args:
          batch_size: images per batch, over all processes.
          process_share: (i, n) for the share of each batch that process i of n loads.
        """
        positions = _process_positions(batch_size, process_share)
        for first in range(0, len(self), batch_size):
            rows = slice(first + positions.start, first + positions.stop)
            labels = self.labels[rows]
            fill = (0, len(positions) - len(labels))
            image = np.pad(self.images[rows], (fill, (0, 0), (0, 0), (0, 0)))
            yield {"image": image, "label": np.pad(labels, fill)}


@dataclasses.dataclass(frozen=True)
class Streamed:
    """A split that is read and decoded on demand.

    Attributes:
      examples: random access to examples with `image` (encoded or array) and `label`.
      size: height and width of the networks' images.
      channels: 1 or 3; images with other channels are converted.
      background: color behind transparent pixels of encoded images, see `settings.kinds.Color`.
      resize: shorter side before the center crop at test time, with random-resized crops for
        training; None to pad or resize images as Resident does, with augmentation in the step.
      workers: number of decoding processes; 0 for threads of this process.
      threads: number of decoding threads without workers; 0 for two per core.
      area: smallest area of a random-resized crop relative to the image, in (0, 1].
      views: views that determine the random-resized crops.
      decode_crop_only: whether only the crop of a JPEG is decoded; the pixels are equal.
      cache_options: selection of decoded training images that are cached in memory.
    """

    examples: Any
    size: int
    channels: int
    background: str = "white"
    resize: int | None = None
    workers: int = 0
    threads: int = 0
    area: float = 0.08
    views: Views = FRESH
    decode_crop_only: bool = False
    cache_options: image_cache.CacheOptions = image_cache.NO_CACHE
    on_device: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.examples)

    @functools.cached_property
    def _cache(self) -> image_cache.ImageCache | None:
        """Cache for runs of more than one epoch, for which threads of this process decode."""
        size = None if self.resize else self.size
        return image_cache.make_cache(self.cache_options, self.examples, size, self.channels)

    def train_batches(
        self,
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        process_share: tuple[int, int] = (0, 1),
    ) -> Iterator[HostBatch]:
        """Yields the batches of steps start..stop-1 with `image`, `label` and `index` in the split.

        Random-resized crops and flips are drawn from (seed, epoch, index). If `views` is set, they
        are drawn from the view, and batches have `view` as well.

        Args:
          batch_size: images per step, over all processes.
          seed: seed of order and crops.
          start: first step.
          stop: end of the steps (exclusive).
          process_share: (i, n) for the share of each batch that process i of n loads.
        """
        cache = self._cache if stop - start > len(self) // batch_size else None

        def load(step: int, position: int) -> HostBatch:
            epoch, row = divmod(step, len(self) // batch_size)
            index = int(epoch_order(seed, epoch, batch_size, len(self))[row, position])
            extra, key = {"index": np.int32(index)}, (seed, epoch, index)
            if self.views.count:
                extra["view"] = self.views.of_epoch(seed, epoch, len(self))[index]
                key = self.views.key(index, int(extra["view"]))
            image, label = self._train_image(index, key, cache)
            return {"image": image, "label": label, **extra}

        workers = self.workers if cache is None else 0
        return self._batches(
            load, start, stop, _process_positions(batch_size, process_share), workers
        )

    def test_batches(
        self, batch_size: int, process_share: tuple[int, int] = (0, 1)
    ) -> Iterator[HostBatch]:
        """Yields all examples in order, scaled and cropped; see `Resident.test_batches`."""

        def load(step: int, position: int) -> HostBatch:
            index = step * batch_size + position
            if index >= len(self):
                black = np.zeros((self.size, self.size, self.channels), np.uint8)
                return {"image": black, "label": np.int32(0)}
            image, label = self._read(index)
            if self.resize:
                image = transforms.center_crop(image, self.size, self.resize)
            return {"image": image, "label": label}

        steps = -(-len(self) // batch_size)
        return self._batches(
            load, 0, steps, _process_positions(batch_size, process_share), self.workers
        )

    def images_at(
        self, index: np.ndarray, batch_size: int, process_share: tuple[int, int] = (0, 1)
    ) -> Iterator[np.ndarray]:
        """Yields batches of images; see `Resident.images_at`.

        With random-resized crops, batches hold all views: [b, views, size, size, channels].
        """

        def load(step: int, position: int) -> HostBatch:
            i = int(index[step * batch_size + position])
            image, _ = self._read(i)
            if not self.resize:
                return {"image": image}
            keys = [self.views.key(i, view) for view in range(self.views.count)]
            return {"image": np.stack([self._random_crop(image, key) for key in keys])}

        steps = len(index) // batch_size
        positions = _process_positions(batch_size, process_share)
        batches = self._batches(load, 0, steps, positions, self.workers)
        with contextlib.closing(batches):
            for batch in batches:
                yield batch["image"]

    def _train_image(
        self, index: int, key: tuple[int, ...], cache: image_cache.ImageCache | None
    ) -> tuple[np.ndarray, np.int32]:
        """Returns a training image as a function of index and key, and the image's label."""
        if cache is not None or not self.resize:
            image, label = (
                self._read(index) if cache is None else cache.get_or_read(index, self._read)
            )
            return (self._random_crop(image, key) if self.resize else image), label
        example = self.examples[index]
        image = transforms.random_crop_or_black(
            example,
            index,
            self.channels,
            self.size,
            self.area,
            functools.partial(np.random.default_rng, key),
            background=self.background,
            decode_crop_only=self.decode_crop_only,
        )
        return image, np.int32(example["label"])

    def _random_crop(self, image: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        return transforms.random_resized_crop(
            np.random.default_rng(key), image, self.size, self.area
        )

    def _read(self, index: int) -> tuple[np.ndarray, np.int32]:
        """Returns an image, in the networks' size unless the host crops, and the image's label."""
        example = self.examples[index]
        image = transforms.decode_or_black(
            example, index, self.channels, self.size, self.background
        )
        if not self.resize:
            image = transforms.pad_or_resize(image, self.size)
        return image, np.int32(example["label"])

    def _batches(
        self,
        load: Callable[[int, int], HostBatch],
        start: int,
        stop: int,
        positions: range,
        workers: int,
    ) -> Iterator[HostBatch]:
        """Yields batches of load(step, position) for all positions in steps start..stop-1."""
        size = len(positions)

        def load_at(offset: int) -> HostBatch:
            step, position = divmod(offset, size)
            return load(step, positions[position])

        return batch_loading.batches(
            load_at,
            start * size,
            stop * size,
            size,
            workers=workers,
            threads=self.threads,
        )


@dataclasses.dataclass(frozen=True)
class Selection(Sequence):
    """A selection of examples.

    Attributes:
      examples: the examples.
      indices: [n], indices of the selected examples.
    """

    examples: Any
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Any:
        return self.examples[int(self.indices[i])]


def select(split: Resident | Streamed, indices: np.ndarray) -> Resident | Streamed:
    """Returns a split of the examples at `indices`, or the split itself if all are selected."""
    if len(indices) == len(split):
        return split
    return dataclasses.replace(split, examples=Selection(split.examples, indices))


def _process_positions(batch_size: int, process_share: tuple[int, int]) -> range:
    """Returns the positions in a batch that process i of n loads."""
    i, n = process_share
    return range(batch_size * i // n, batch_size * (i + 1) // n)
