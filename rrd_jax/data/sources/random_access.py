"""Random access to the examples of custom sources, in the form that feeds expect."""

import contextlib
import dataclasses
import functools
import hashlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rrd_jax import errors
from rrd_jax.data import splits
from rrd_jax.data.images import decoding, example_forms
from rrd_jax.data.sources import memory_maps
from rrd_jax.data.sources.first_reads import FirstReads

Reopen = Callable[[], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Handle:
    """A source that worker processes open again; it is pickled only if it cannot be reopened.

    Attributes:
      description: name of the data set, for messages.
      source: object with `__len__` and `__getitem__`.
      reopen: opens the source in another process; None if the source cannot be reopened.
    """

    description: str
    source: Any
    reopen: Reopen | None = None

    def __reduce__(self) -> tuple:
        if self.reopen is not None:
            return _reopened, (self.description, self.reopen, self.fingerprint())
        try:
            dumped = memory_maps.dumps(self.source)
        # A user's object may raise any exception.
        except Exception as error:
            raise errors.InputError(
                f"{self.description} cannot be sent to worker processes"
                f" ({type(error).__name__}: {error}); set data.workers=0, or pass the data set as"
                " an import path"
            ) from error
        return _received, (self.description, dumped)

    def fingerprint(self) -> str:
        """Returns a digest of the length and of the first, middle and last example."""
        count = len(self.source)
        rows, digest = Rows(self.description, ((self, range(count)),)), hashlib.sha256()
        for i in sorted({0, count // 2, count - 1}):
            digest.update(content(rows.read(i)))
        return f"{count} {digest.hexdigest()[:16]}"


def content(example: Mapping[str, Any]) -> bytes:
    """Returns the image and the label of a conformed example as bytes, for digests."""
    image = example["image"]
    if isinstance(image, np.ndarray):
        image = repr(image.shape).encode() + image.tobytes()
    else:
        # Version 0.2.0 ignored the orientation: its runs do not resume with rotated images.
        with contextlib.suppress(errors.InputError):
            orientation = decoding.orientation(image)
            image += f"orientation {orientation}".encode() if orientation != 1 else b""
    return image + repr(example["label"]).encode()


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
    reopen = handle.reopen and functools.partial(_images, handle.reopen)
    return Handle(handle.description, Images(handle.source), reopen)


def _images(reopen: Reopen) -> Images:
    return Images(reopen())


def _received(description: str, dumped: bytes) -> Handle:
    return Handle(description, pickle.loads(dumped))


def _reopened(description: str, reopen: Reopen, fingerprint: str) -> Handle:
    """Opens a source again in a worker process.

    Raises:
      InputError: the source has other examples than in the process that trains.
    """
    handle = Handle(description, reopen(), reopen)
    if handle.fingerprint() != fingerprint:
        raise errors.InputError(
            f"{description} has other examples when a worker process opens it again; remove"
            " randomness and shared state from the code that opens it, or set data.workers=0"
        )
    return handle


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
      counts: number of examples in the source of each part when it was opened.
      first_reads: the examples as they were first read.
    """

    rows: Rows
    channels: int
    num_classes: int
    background: str
    known_labels: np.ndarray | None = None
    counts: tuple[int, ...] = ()
    first_reads: FirstReads | None = None

    @property
    def listed_labels(self) -> np.ndarray | None:
        """All labels, [N]; None if the source does not list its labels."""
        return self.known_labels

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
        """Returns example i.

        Raises:
          InputError: the label is out of range, or the source has changed.
        """
        self._check_counts(i)
        conform = functools.partial(
            example_forms.conform_with_form, channels=self.channels, background=self.background
        )
        example, form = self.rows.read(i, conform)
        self.check_label(i, example["label"])
        self._check_unchanged(i, example, form)
        return example

    def _check_counts(self, i: int) -> None:
        """Raises an InputError if a source has another length than when it was opened."""
        for (handle, _), count in zip(self.rows.parts, self.counts, strict=False):
            length = len(handle.source)
            if length != count:
                raise self._changed(f"it had {count:,} examples and now has {length:,}", i)

    def _check_unchanged(self, i: int, example: dict[str, Any], form: str) -> None:
        """Raises an InputError if an example differs from the list of labels or its first read."""
        label, change = example["label"], ""
        if self.known_labels is not None and label != self.known_labels[i]:
            change = f"its label was {self.known_labels[i]} and is now {label}"
        elif self.first_reads is not None:
            change = self.first_reads.change(i, form, example["image"], label)
        if change:
            raise self._changed(change, i)

    def _changed(self, change: str, i: int) -> errors.InputError:
        return errors.InputError(
            f"example {i} of {self.rows.description} was read again, and {change}; a data set must"
            " not change during a run: remove randomness and shared state from the source, and use"
            " data.augment for augmentation"
        )

    def check_label(self, i: int, label: int) -> None:
        """Raises an InputError if the label of an example is out of range."""
        if not 0 <= label < self.num_classes:
            raise errors.InputError(
                f"example {i} of {self.rows.description} has label {label}, but there are"
                f" {self.num_classes} classes, from 0 to {self.num_classes - 1}; correct the label"
                " or the number of classes"
            )
