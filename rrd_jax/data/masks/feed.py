"""Batches of images with their masks, preprocessed like the test images of a run."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from rrd_jax import errors
from rrd_jax.data.feeds import batch_loading
from rrd_jax.data.feeds.batch_loading import HostBatch
from rrd_jax.data.images import transforms
from rrd_jax.data.mask_index import IGNORED
from rrd_jax.data.masks.decoding import decode


@dataclasses.dataclass(frozen=True)
class MaskedSplit:
    """A split of images and masks that are read and decoded on demand.

    Attributes:
      examples: random access to examples with `image` and `mask`, both encoded.
      size: height and width of the networks' images.
      channels: 1 or 3; images with other channels are converted.
      background: color behind transparent pixels, see `settings.kinds.Color`.
      resize: shorter side before the center crop; None to pad or resize images.
    """

    examples: Any
    size: int
    channels: int
    background: str = "white"
    resize: int | None = None

    def __len__(self) -> int:
        return len(self.examples)

    def batches(
        self, batch_size: int, process_share: tuple[int, int] = (0, 1)
    ) -> Iterator[HostBatch]:
        """Yields all examples in order, as `image` and `mask`.

        Images are [b, size, size, channels] and masks [b, size, size].
        Both are uint8. Pixels outside of an image have the class index 255, as do the images that
        fill the last batch.

        Args:
          batch_size: images per batch, over all processes.
          process_share: (i, n) for the share of each batch that process i of n loads.
        """
        i, n = process_share
        positions = range(batch_size * i // n, batch_size * (i + 1) // n)

        def load(offset: int) -> HostBatch:
            step, place = divmod(offset, len(positions))
            index = step * batch_size + positions[place]
            return self.read(index) if index < len(self) else self._empty()

        count = -(-len(self) // batch_size) * len(positions)
        return batch_loading.batches(load, 0, count, len(positions))

    def read(self, index: int) -> HostBatch:
        """Returns an image and its mask.

        An image that cannot be decoded is black, and all pixels of its mask have no class.
        """
        example = self.examples[index]
        try:
            image = transforms.decode(example["image"], self.channels, self.background)
        except errors.InputError:
            # The call reports the image.
            transforms.decode_or_black(example, index, self.channels, self.size, self.background)
            return self._empty()
        mask = decode(example["mask"])[..., None]
        image, mask = (
            transforms.evaluation_view(array, self.size, self.resize, is_mask=array is mask)
            for array in (image, mask)
        )
        return {"image": image, "mask": mask[..., 0]}

    def _empty(self) -> HostBatch:
        return {
            "image": np.zeros((self.size, self.size, self.channels), np.uint8),
            "mask": np.full((self.size, self.size), IGNORED, np.uint8),
        }
