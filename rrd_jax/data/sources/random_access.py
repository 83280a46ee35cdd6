"""Random access to the examples of users' sources, in the one form that feeds take."""

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
    """A source, which is sent to worker processes as it is, or opened again there.

    Attributes:
      what: name of the data set, for messages.
      source: object with `__len__` and `__getitem__`.
      reopen: opens the same source in another process; None if only this process has it.
    """

    what: str
    source: Any
    reopen: Reopen | None = None

    def __reduce__(self) -> tuple:
        dumped = None
        try:
            dumped = cloudpickle.dumps(self.source)
        except Exception as error:  # A user's object may raise anything.
            if self.reopen is None:
                raise errors.InputError(
                    f"{self.what} cannot be sent to worker processes ({type(error).__name__}:"
                    f" {error}): set data.workers to 0, or give it by import path"
                ) from error
        return _received, (self.what, dumped, self.reopen)


@dataclasses.dataclass(frozen=True, eq=False)
class Images(Sequence):
    """A source of images; labels are not read.

    Attributes:
      source: object with `__len__` and `__getitem__`.
    """

    source: Any

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return example_forms.without_label(self.source[i])


def without_labels(handle: Handle) -> Handle:
    """Returns the same source without labels."""
    reopen = handle.reopen and functools.partial(_reopened, handle.reopen)
    return Handle(handle.what, Images(handle.source), reopen)


def _reopened(reopen: Reopen) -> Images:
    return Images(reopen())


def _received(what: str, dumped: bytes | None, reopen: Reopen | None) -> Handle:
    source = pickle.loads(dumped) if dumped is not None else reopen()
    return Handle(what, source, reopen)


@dataclasses.dataclass(frozen=True, eq=False)
class Rows(Sequence):
    """The concatenated parts of sources that a split expression names.

    Attributes:
      what: name of the split and data set, for messages.
      parts: sources, and ranges of their examples.
    """

    what: str
    parts: tuple[tuple[Handle, range], ...]

    def __len__(self) -> int:
        return sum(len(places) for _, places in self.parts)

    def __getitem__(self, i: int) -> Any:
        for handle, places in self.parts:
            if i < len(places):
                return handle.source[places[i]]
            i -= len(places)
        raise IndexError(i)

    def read(self, i: int, form: Callable[[Any], Any] = example_forms.conform) -> Any:
        """Returns example i in a form of `example_forms`.

        Raises:
          InputError: the example has another form; the message names it.
          UserCodeError: the source raised.
        """
        with errors.user_code("reading", f"example {i} of {self.what}"):
            return form(self[i])


@dataclasses.dataclass(frozen=True, eq=False)
class Examples(splits.Examples):
    """Examples of a user's source in the form that feeds take.

    Attributes:
      rows: the examples as their source gives them.
      channels: channels of all images, 1 or 3.
      num_classes: C; labels are in 0..C-1.
      known_labels: [N] all labels, if their source lists them.
    """

    rows: Rows
    channels: int
    num_classes: int
    known_labels: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray:
        """[N] all labels, which are read one after the other unless they are known."""
        if self.known_labels is not None:
            return self.known_labels
        labels = [self.rows.read(i, example_forms.label) for i in range(len(self))]
        for i, label in enumerate(labels):
            self.check_label(i, label)
        return np.array(labels)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, i: int) -> dict[str, Any]:
        """Returns example i; raises an InputError if its label is out of range."""
        example = self.rows.read(
            i, functools.partial(example_forms.conform, channels=self.channels)
        )
        self.check_label(i, example["label"])
        return example

    def check_label(self, i: int, label: int) -> None:
        """Raises an InputError if the label of an example is out of range."""
        if not 0 <= label < self.num_classes:
            raise errors.InputError(
                f"example {i} of {self.rows.what} has label {label}, but there are"
                f" {self.num_classes} classes, from 0 to {self.num_classes - 1}"
            )
