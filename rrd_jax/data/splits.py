"""The splits of an opened data set, and their summary."""

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Examples(Sequence):
    """Random access to examples: mappings with `image`, `label` and optionally `file_name`.

    Images are encoded bytes, or uint8 [H, W, channels].
    """

    def read(self, i: int) -> dict[str, Any]:
        """Returns example i, 0 <= i < len(self)."""
        raise NotImplementedError

    @property
    def listed_labels(self) -> Sequence[int] | np.ndarray | None:
        """Labels of all examples, [N], if they are known without reading the examples."""
        return None

    def __getitem__(self, i: int) -> dict[str, Any]:
        i = operator.index(i)
        if i >= len(self):
            raise IndexError(i)
        return self.read(i)


@dataclasses.dataclass(frozen=True, eq=False)
class Unlabelled(Examples):
    """The examples of a split with label 0, a placeholder that training ignores.

    Attributes:
      examples: the split, whose labels are not read.
    """

    examples: Sequence[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.examples)

    def read(self, i: int) -> dict[str, Any]:
        """Returns example i with label 0."""
        return {**self.examples[i], "label": 0}

    @property
    def labels(self) -> np.ndarray:
        """Zeros, int32 [N]."""
        return np.zeros(len(self), np.int32)


@dataclasses.dataclass(frozen=True)
class Summary:
    """A summary of a data set.

    Attributes:
      lines: log lines for the console.
      warnings: likely mistakes in the data.
      details: JSON values for data.json.
    """

    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "Summary") -> "Summary":
        """Joins two summaries; details of the second take precedence."""
        return Summary(
            (*self.lines, *other.lines),
            (*self.warnings, *other.warnings),
            {**self.details, **other.details},
        )


@dataclasses.dataclass(frozen=True)
class Splits:
    """The splits of a data set and their common properties.

    Attributes:
      version: name of the data set, with a version number or a digest.
      num_classes: C; 0 without labels.
      channels: channels of the images, 1 or 3.
      train: training examples in the form of `Examples`.
      test: test examples in the form of `Examples`.
      class_names: names in the order of labels; () if unknown.
      summary: summary of the data by their source.
      shared: number of examples that are in both splits.
      repeated: number of examples that the training split has more than once.
      display_name: name for people, such as the name of a folder; "" for the version.
      validation: examples that are held out from the training examples; None for none.
    """

    version: str
    num_classes: int
    channels: int
    train: Sequence[dict[str, Any]]
    test: Sequence[dict[str, Any]]
    class_names: tuple[str, ...] = ()
    summary: Summary = dataclasses.field(default_factory=Summary)
    shared: int = 0
    repeated: int = 0
    display_name: str = ""
    validation: Sequence[dict[str, Any]] | None = None

    def without_labels(self) -> "Splits":
        """Returns the splits without labels and classes."""
        return dataclasses.replace(
            self,
            num_classes=0,
            class_names=(),
            train=Unlabelled(self.train),
            test=Unlabelled(self.test),
        )
