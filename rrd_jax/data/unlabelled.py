"""Examples without labels, whatever they are stored with."""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from rrd_jax.data.opened import Opened


@dataclasses.dataclass(frozen=True, eq=False)
class Unlabelled(Sequence):
    """The examples of a split with label 0, which feeds carry and nothing reads.

    Attributes:
      examples: the split as it is stored; their labels are not read.
    """

    examples: Sequence[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> dict[str, Any]:
        i = operator.index(i)
        if i >= len(self):
            raise IndexError(i)
        return {**self.examples[i], "label": 0}

    @property
    def labels(self) -> np.ndarray:
        """[N] zeros."""
        return np.zeros(len(self), np.int32)


def strip(splits: Opened) -> Opened:
    """The same splits without labels and classes."""
    return dataclasses.replace(
        splits,
        num_classes=0,
        class_names=(),
        train=Unlabelled(splits.train),
        test=Unlabelled(splits.test),
    )
