"""The two splits of an opened data set, and what is reported about them."""

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Examples(Sequence):
    """Random access to examples: mappings with `image`, `label` and, if known, `file_name`.

    Images are encoded, or uint8 [H, W, channels].
    """

    def read(self, i: int) -> dict[str, Any]:
        """Returns example i, 0 <= i < len(self)."""
        raise NotImplementedError

    def __getitem__(self, i: int) -> dict[str, Any]:
        i = operator.index(i)
        if i >= len(self):
            raise IndexError(i)
        return self.read(i)


@dataclasses.dataclass(frozen=True, eq=False)
class Unlabelled(Examples):
    """The examples of a split with label 0, which feeds carry and no one reads.

    Attributes:
      examples: the split as it is stored; its labels are not read.
    """

    examples: Sequence[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.examples)

    def read(self, i: int) -> dict[str, Any]:
        """Returns example i with label 0."""
        return {**self.examples[i], "label": 0}

    @property
    def labels(self) -> np.ndarray:
        """[N] zeros."""
        return np.zeros(len(self), np.int32)


@dataclasses.dataclass(frozen=True)
class Summary:
    """A data set in words and figures.

    Attributes:
      lines: for the console.
      warnings: doubtful findings.
      figures: JSON values.
    """

    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "Summary") -> "Summary":
        """Joins two summaries; figures of the second replace those of the first."""
        return Summary(
            (*self.lines, *other.lines),
            (*self.warnings, *other.warnings),
            {**self.figures, **other.figures},
        )


@dataclasses.dataclass(frozen=True)
class Splits:
    """Two splits, and the properties that all their examples share.

    Attributes:
      version: name, and a part that tells changed data apart.
      num_classes: C; 0 without labels.
      channels: channels of the images, 1 or 3.
      train: random access to examples, as `Examples` describes them.
      test: likewise.
      class_names: names in the order of labels; () if the data do not name them.
      summary: what the source reports about the data.
      shared: number of examples that are in both splits.
    """

    version: str
    num_classes: int
    channels: int
    train: Sequence[dict[str, Any]]
    test: Sequence[dict[str, Any]]
    class_names: tuple[str, ...] = ()
    summary: Summary = dataclasses.field(default_factory=Summary)
    shared: int = 0

    def without_labels(self) -> "Splits":
        """Returns the same images without labels and classes."""
        return dataclasses.replace(
            self,
            num_classes=0,
            class_names=(),
            train=Unlabelled(self.train),
            test=Unlabelled(self.test),
        )
