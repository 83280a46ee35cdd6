"""A finite number of views of each image, so that what a teacher says of them can be remembered.

View v of image i is a function of (seed, i, v) alone, whatever the augmentation: of the part of it
that the host makes, and of that which the compiled step makes.
"""

import functools
from typing import NamedTuple

import numpy as np

# Folded into seeds, for views not to follow what an order follows.
_VIEWS = 2**31 - 3


class Views(NamedTuple):
    """Which views there are.

    Attributes:
      count: of each image; 0 for fresh ones for ever.
      seed: what they follow from, whatever the seed of a run.
    """

    count: int = 0
    seed: int = 0

    def of_epoch(self, seed: int, epoch: int, examples: int) -> np.ndarray:
        """[examples] int32 in [0, count): which of its views each image shows in an epoch.

        An image shows all of its views, one after the other, in `count` epochs; in the next ones
        it begins with another.

        Args:
          seed: of the run.
          epoch: from 0.
          examples: images of the split.
        """
        return _of_epoch(self.count, seed, epoch, examples)

    def key(self, index: int, view: int) -> tuple[int, ...]:
        """The seed of a generator that the host's part of a view is drawn from."""
        return self.seed, index, view, _VIEWS


FRESH = Views()


@functools.lru_cache(maxsize=4)
def _of_epoch(count: int, seed: int, epoch: int, examples: int) -> np.ndarray:
    turn, place = divmod(epoch, count)
    first = np.random.default_rng((seed, turn, _VIEWS)).integers(count, size=examples)
    return ((first + place) % count).astype(np.int32)
