"""Two ways to feed batches, one interface: from memory, or decoded on the way by Grain.

The order is a function of (seed, step) alone, so a restart needs no state: epoch e visits a
permutation drawn from (seed, e), and its last partial batch is dropped.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import cv2
import grain
import grain.experimental
import numpy as np

from rrd_jax import errors
from rrd_jax.data import augment

HostBatch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Resident:
    """A split that lies decoded in memory.

    Attributes:
      images: [N, H, W, channels] uint8.
      labels: [N] int32.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def train_batches(self, batch_size: int, seed: int, start: int, stop: int) -> Iterator:
        """Batches of the steps start..stop-1: `image`, `label`, and `index` in the split."""
        for step in range(start, stop):
            index = order(seed, step, batch_size, len(self))
            yield {
                "image": self.images[index],
                "label": self.labels[index],
                "index": index.astype(np.int32),
            }

    def test_batches(self, batch_size: int) -> Iterator[HostBatch]:
        """All examples in order; the last batch may be smaller."""
        for first in range(0, len(self), batch_size):
            part = slice(first, first + batch_size)
            yield {"image": self.images[part], "label": self.labels[part]}


@dataclasses.dataclass(frozen=True)
class Streamed:
    """A split that is read and decoded as it is used.

    Attributes:
      source: random access to examples with `image` (encoded or array) and `label`.
      size: height and width after cropping.
      channels: 1 or 3; images stored otherwise are converted.
      resize: short side before the central crop at test time.
      threads: that read and decode.
    """

    source: Any
    size: int
    channels: int
    resize: int
    threads: int = 16

    def __len__(self) -> int:
        return len(self.source)

    def train_batches(self, batch_size: int, seed: int, start: int, stop: int) -> Iterator:
        """As Resident's, with a random-resized crop and flip drawn from (seed, epoch, index)."""
        steps_per_epoch = len(self) // batch_size

        def load(position: int) -> HostBatch:
            step, place = divmod(position, batch_size)
            index = order(seed, step, batch_size, len(self))[place]
            example = self.source[int(index)]
            rng = np.random.default_rng((seed, step // steps_per_epoch, int(index)))
            image = decode(example["image"], self.channels)
            image = augment.random_resized_crop(rng, image, self.size)
            return {"image": image, "label": _label(example), "index": np.int32(index)}

        positions = grain.MapDataset.range(start * batch_size, stop * batch_size)
        return self._read(positions.map(load), batch_size)

    def test_batches(self, batch_size: int) -> Iterator[HostBatch]:
        """All examples in order, scaled and cropped; the last batch may be smaller."""

        def load(index: int) -> HostBatch:
            example = self.source[int(index)]
            image = decode(example["image"], self.channels)
            image = augment.center_crop(image, self.size, self.resize)
            return {"image": image, "label": _label(example)}

        return self._read(grain.MapDataset.range(len(self)).map(load), batch_size)

    def _read(self, images: grain.MapDataset, batch_size: int) -> Iterator[HostBatch]:
        # Threads work image by image: batch by batch, those read ahead would fill gigabytes.
        ahead = max(batch_size, 2 * self.threads)
        options = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=ahead)
        batches = images.to_iter_dataset(options).batch(batch_size)
        return iter(grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=2))


def order(seed: int, step: int, batch_size: int, examples: int) -> np.ndarray:
    """[batch_size] indices of the examples that step `step` (from 0) sees."""
    epoch, place = divmod(step, examples // batch_size)
    return _permutation(seed, epoch, examples)[place * batch_size : (place + 1) * batch_size]


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, examples: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(examples)


def resident(source: Any, size: int, channels: int) -> Resident:
    """Reads and decodes a whole split into memory, each image as [size, size, channels]."""

    def load(example: dict[str, Any]) -> HostBatch:
        image = augment.fit(decode(example["image"], channels), size)
        return {"image": image, "label": _label(example)}

    # No threads: a small image is decoded faster than it is handed from one to another.
    read = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    examples = list(grain.MapDataset.source(source).map(load).to_iter_dataset(read))
    return Resident(
        np.stack([example["image"] for example in examples]),
        np.stack([example["label"] for example in examples]),
    )


def decode(image: Any, channels: int) -> np.ndarray:
    """[H, W, channels] uint8, RGB or grey, from an encoded image or such an array.

    Files stored with other channels (ImageNet has grey and CMYK ones) are converted.
    """
    if isinstance(image, np.ndarray):
        return image
    colour = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
    flags = colour | cv2.IMREAD_IGNORE_ORIENTATION  # the pixels as stored, as the field does
    decoded = cv2.imdecode(np.frombuffer(image, np.uint8), flags)
    if decoded is None:
        raise errors.InputError(f"an image of {len(image)} bytes cannot be decoded")
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB) if channels == 3 else decoded[..., None]


def _label(example: dict[str, Any]) -> np.int32:
    return np.int32(example["label"])
