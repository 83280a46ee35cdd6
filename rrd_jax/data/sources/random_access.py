"""Random access to the examples of custom sources, in the form that feeds expect."""

import dataclasses
import functools
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import numpy as np

from rrd_jax import errors
from rrd_jax.data import splits
from rrd_jax.data.images import example_forms

Reopen = Callable[[], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Handle:
    """A source that is pickled for worker processes, or opened again there.

    Attributes:
      description: name of the data set, for messages.
      source: object with `__len__` and `__getitem__`.
      reopen: opens the source in another process; None if the source cannot be reopened.
    """

    description: str
    source: Any
    reopen: Reopen | None = None

    def __reduce__(self) -> tuple:
        dumped = None
        try:
            dumped = cloudpickle.dumps(self.source)
        # A user's object may raise any exception.
        except Exception as error:
            if self.reopen is None:
                raise errors.InputError(
                    f"{self.description} cannot be sent to worker processes"
                    f" ({type(error).__name__}: {error}); set data.workers=0, or pass the data set"
                    " as an import path"
                ) from error
        return _received, (self.description, dumped, self.reopen)


@dataclasses.dataclass(frozen=True, eq=False)
class Images(Sequence):
    """A source of images whose labels are not read.

    Attributes:
      source: object with `__len__` and `__getitem__`.
    """

    source: Any

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return example_forms.without_label(self.source[i])


def without_labels(handle: Handle) -> Handle:
    """Returns a handle of the source without labels."""
    reopen = handle.reopen and functools.partial(_reopened, handle.reopen)
    return Handle(handle.description, Images(handle.source), reopen)


def _reopened(reopen: Reopen) -> Images:
    return Images(reopen())


def _received(description: str, dumped: bytes | None, reopen: Reopen | None) -> Handle:
    source = pickle.loads(dumped) if dumped is not None else reopen()
    return Handle(description, source, reopen)


@dataclasses.dataclass(frozen=True, eq=False)
class Rows(Sequence):
    """The concatenated parts of sources in a split expression.

    Attributes:
      description: name of the split and data set, for messages.
      parts: sources and ranges of their examples.
    """

    description: str
    parts: tuple[tuple[Handle, range], ...]

    def __len__(self) -> int:
        return sum(len(indices) for _, indices in self.parts)

    def __getitem__(self, i: int) -> Any:
        for handle, indices in self.parts:
            if i < len(indices):
                return handle.source[indices[i]]
            i -= len(indices)
        raise IndexError(i)

    def read(self, i: int, form: Callable[[Any], Any] = example_forms.conform) -> Any:
        """Returns example i, converted by a function of `example_forms`.

        Raises:
          InputError: the example has an unsupported form; the message names the example.
          UserCodeError: the source raised an exception.
        """
        with errors.user_code("reading", f"example {i} of {self.description}"):
            return form(self[i])


@dataclasses.dataclass(frozen=True, eq=False)
class UserExamples(splits.Examples):
    """Examples of a custom source in the form that feeds expect.

    Attributes:
      rows: the unconverted examples.
      channels: channels of all images, 1 or 3.
      num_classes: C; labels are in 0..C-1.
      background: color behind transparent pixels of arrays and PIL images, see
        `settings.kinds.Color`.
      known_labels: [N], all labels; None if the source does not list its labels.
    """

    rows: Rows
    channels: int
    num_classes: int
    background: str
    known_labels: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray:
        """Labels of the split, [N], read from each example unless the source lists its labels."""
        if self.known_labels is not None:
            return self.known_labels
        labels = [self.rows.read(i, example_forms.label) for i in range(len(self))]
        for i, label in enumerate(labels):
            self.check_label(i, label)
        return np.array(labels)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, i: int) -> dict[str, Any]:
        """Returns example i; raises an InputError if the label is out of range."""
        form = functools.partial(
            example_forms.conform, channels=self.channels, background=self.background
        )
        example = self.rows.read(i, form)
        self.check_label(i, example["label"])
        return example

    def check_label(self, i: int, label: int) -> None:
        """Raises an InputError if the label of an example is out of range."""
        if not 0 <= label < self.num_classes:
            raise errors.InputError(
                f"example {i} of {self.rows.description} has label {label}, but there are"
                f" {self.num_classes} classes, from 0 to {self.num_classes - 1}; correct the label"
                " or the number of classes"
            )
