"""A finite number of views of each image, so that the teacher's outputs can be cached.

View v of image i depends only on (seed, i, v), both in the augmentation on the host and in the
augmentation in the compiled step.
"""

import functools
from typing import NamedTuple

import numpy as np

# Part of the seeds, so that views are independent of the order of examples.
_VIEWS = 2**31 - 3


class Views(NamedTuple):
    """The views of the images of a training set.

    Attributes:
      count: number of views of each image; 0 for new views in each epoch.
      seed: seed of the views, independent of the seed of a run.
    """

    count: int = 0
    seed: int = 0

    def of_epoch(self, seed: int, epoch: int, examples: int) -> np.ndarray:
        """Returns the view of each image in an epoch, [examples] int32 in [0, count).

        In each `count` epochs, an image cycles through all of its views, from a random first view.

        Args:
          seed: seed of the run.
          epoch: epoch, from 0.
          examples: number of images of the split.
        """
        return _of_epoch(self.count, seed, epoch, examples)

    def key(self, index: int, view: int) -> tuple[int, ...]:
        """Returns the seed of the random generator for the host's augmentation of a view."""
        return self.seed, index, view, _VIEWS


FRESH = Views()


@functools.lru_cache(maxsize=4)
def _of_epoch(count: int, seed: int, epoch: int, examples: int) -> np.ndarray:
    cycle, offset = divmod(epoch, count)
    first = np.random.default_rng((seed, cycle, _VIEWS)).integers(count, size=examples)
    return ((first + offset) % count).astype(np.int32)
