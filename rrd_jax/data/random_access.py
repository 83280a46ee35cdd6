"""Random-access sources of users: checked once where they come in, then read as all others are."""

import dataclasses
import functools
import hashlib
import operator
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cloudpickle
import numpy as np

from rrd_jax import errors, imports
from rrd_jax.data import conform, images, splits
from rrd_jax.data.opened import Opened
from rrd_jax.data.source import Source

_LOOKS = 8  # examples of a split that are looked at when it is opened
_SCANNED = 100_000  # of more examples, the labels are not read one after the other
Reopen = Callable[[], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Handle:
    """A source, which goes to a worker process as it is, or is opened anew there.

    Attributes:
      what: whose it is, for messages.
      source: with `__len__` and `__getitem__`.
      reopen: opens the same source in another process; None where only this process has it.
    """

    what: str
    source: Any
    reopen: Reopen | None = None

    def __reduce__(self) -> tuple:
        dumped = None
        try:
            dumped = cloudpickle.dumps(self.source)
        except Exception as error:  # whatever a user's object raises
            if self.reopen is None:
                raise errors.InputError(
                    f"{self.what} cannot be sent to worker processes ({type(error).__name__}:"
                    f" {error}): set data.workers to 0, or give it by import path"
                ) from error
        return _received, (self.what, dumped, self.reopen)


def _received(what: str, dumped: bytes | None, reopen: Reopen | None) -> Handle:
    source = pickle.loads(dumped) if dumped is not None else reopen()
    return Handle(what, source, reopen)


@dataclasses.dataclass(frozen=True, eq=False)
class Rows(Sequence):
    """The parts of sources that a split expression names, one after the other, as they are.

    Attributes:
      what: which split of which set, for messages.
      parts: sources, and the places in them.
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

    def read(self, i: int, form: Callable[[Any], Any] = conform.conform) -> Any:
        """An example in a form of `conform`.

        Raises:
          InputError: the source raised, or gave something else; it says which example.
        """
        what = f"example {i} of {self.what}"
        try:
            return form(self[i])
        except errors.InputError as error:
            raise errors.InputError(f"{what} cannot be used: {error}") from error
        except Exception as error:  # of a user's code
            raise imports.raised(what, "cannot be read", error) from error


@dataclasses.dataclass(frozen=True, eq=False)
class Examples(Sequence):
    """Examples in the one form that feeds take.

    Attributes:
      rows: the examples as their source gives them.
      channels: of all images, 1 or 3.
      num_classes: C; labels are in 0..C-1.
    """

    rows: Rows
    channels: int
    num_classes: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        i = operator.index(i)
        if i >= len(self):
            raise IndexError(i)
        example = self.rows.read(i, functools.partial(conform.conform, channels=self.channels))
        self.check_label(i, example["label"])
        return example

    def check_label(self, i: int, label: int) -> None:
        """Raises an InputError where the label of an example is out of range."""
        if not 0 <= label < self.num_classes:
            raise errors.InputError(
                f"example {i} of {self.rows.what} has label {label}, but there are"
                f" {self.num_classes} classes, from 0 to {self.num_classes - 1}"
            )


def open_splits(
    source: Source,
    name: str,
    open_split: Callable[[str], Handle],
    known: Sequence[str] = (),
    *,
    origin: Any = None,
    num_classes: int | None = None,
) -> Opened:
    """The two splits of a source that is not TFDS's.

    Args:
      source: split expressions, and how many examples stand in for the data, if any.
      name: of the set, for its version.
      open_split: the name of a split, without a slice -> its source.
      known: names of the splits, for messages; empty where any name may do.
      origin: what the sources came from; it too may have `classes` or `num_classes`.
      num_classes: C; None to find it.

    Raises:
      InputError: a split or an example that is not as it must be.
    """
    handles: dict[str, Handle] = {}

    def handle(split: str) -> Handle:
        if split not in handles:
            handles[split] = open_split(split)
        return handles[split]

    both = [
        _rows(name, expression, handle, known, source.mock_examples)
        for expression in (source.train_split, source.test_split)
    ]
    looks = [_look(rows) for rows in both]
    labels = [_known_labels(rows, look) for rows, look in zip(both, looks, strict=True)]
    if num_classes is None:
        candidates = [*(found.source for found in handles.values()), origin]
        num_classes = next(filter(None, map(_declared_classes, candidates)), None)
    if num_classes is None:
        labels = [_scan(*pair) for pair in zip(both, labels, strict=True)]
        num_classes = int(max(map(np.max, labels))) + 1
    channels = max(look.channels for look in looks)
    train, test = (Examples(rows, channels, num_classes) for rows in both)
    for examples, look, known in zip((train, test), looks, labels, strict=True):
        _check_labels(examples, look, known)
    return Opened(f"{name} {_digest(both, looks, labels)}", num_classes, channels, train, test)


def _rows(
    name: str,
    expression: str,
    handle: Callable[[str], Handle],
    known: Sequence[str],
    most: int,
) -> Rows:
    """The rows of a split expression; of each part at most `most`, unless that is 0."""
    what = f"split '{expression}' of data set '{name}'"
    parts = []
    try:
        for part in splits.parse(expression):
            if known and part.name not in known:
                raise ValueError(f"there is no '{part.name}'")
            found = handle(part.name)
            places = part.rows(len(found.source))
            parts.append((found, places[:most] if most else places))
        if not sum(len(places) for _, places in parts):
            raise ValueError("it is empty")
    except errors.InputError:
        raise
    except ValueError as error:
        listed = f"; its splits: {', '.join(known)}, or parts such as train[90%:]" if known else ""
        raise errors.InputError(f"{what} cannot be read ({error}){listed}") from error
    return Rows(what, tuple(parts))


class _Look(NamedTuple):
    """What a few examples of a split show."""

    channels: int
    labels: dict[int, int]  # by example
    digest: bytes


def _look(rows: Rows) -> _Look:
    """Reads the first example, the last, and some between, each of them twice.

    Raises:
      InputError: one of them is not as it must be, is not the same again, or none is an image.
    """
    digest, labels, channels, damaged = hashlib.sha256(), {}, 0, None
    places = np.linspace(0, len(rows) - 1, min(_LOOKS, len(rows)))
    for i in map(int, places):
        example, again = rows.read(i), rows.read(i)
        if _content(example) != _content(again):
            raise errors.InputError(
                f"example {i} of {rows.what} is another each time that it is read: leave out what"
                " changes images at random, which a run that goes on could not repeat;"
                " data.augment does it"
            )
        digest.update(_content(example))
        labels[i] = example["label"]
        try:
            channels = max(channels, _channels(example["image"]))
        except errors.InputError as error:  # such an image is taken as black
            damaged = errors.InputError(f"example {i} of {rows.what} cannot be used: {error}")
    if not channels:
        raise damaged
    return _Look(channels, labels, digest.digest())


def _content(example: Mapping[str, Any]) -> bytes:
    image = example["image"]
    if isinstance(image, np.ndarray):
        image = repr(image.shape).encode() + image.tobytes()
    return image + repr(example["label"]).encode()


def _channels(image: bytes | np.ndarray) -> int:
    return image.shape[-1] if isinstance(image, np.ndarray) else images.stored_channels(image)


def _known_labels(rows: Rows, look: _Look) -> np.ndarray | None:
    """All labels of a split, where its sources list those that their examples have."""
    parts = [(_listed_labels(handle.source), places) for handle, places in rows.parts]
    if any(labels is None for labels, _ in parts):
        return None
    known = np.concatenate([labels[places.start : places.stop] for labels, places in parts])
    return known if all(known[i] == label for i, label in look.labels.items()) else None


def _listed_labels(source: Any) -> np.ndarray | None:
    for name in ("labels", "targets"):  # the latter as torchvision has it
        listed = getattr(source, name, None)
        if isinstance(listed, Sequence) or hasattr(listed, "__array__"):
            labels = np.asarray(listed)
            if labels.shape == (len(source),) and np.issubdtype(labels.dtype, np.integer):
                return labels
    return None


def _declared_classes(source: Any) -> int | None:
    """What a source says of its number of classes, or what it is a subset of (`dataset`)."""
    while source is not None:
        if number := getattr(source, "num_classes", None):
            return int(number)
        classes = getattr(source, "classes", None)
        if hasattr(classes, "__len__") and len(classes):
            return len(classes)
        for holder in (source, getattr(source, "dataset_info", None)):  # TFDS's sources
            try:
                return int(holder.features["label"].num_classes)
            except (AttributeError, KeyError, TypeError):
                continue
        source = getattr(source, "dataset", None)  # of torch's Subset
    return None


def _scan(rows: Rows, known: np.ndarray | None) -> np.ndarray:
    """The labels of all examples, read one after the other if need be."""
    if known is not None:
        return known
    if len(rows) > _SCANNED:
        raise errors.InputError(
            f"{rows.what} does not say how many classes it has, and {len(rows)} examples are too"
            " many to look for the largest label: give the source an attribute num_classes"
        )
    return np.array([rows.read(i, conform.label) for i in range(len(rows))])


def _check_labels(examples: Examples, look: _Look, known: np.ndarray | None) -> None:
    """Raises an InputError for a label out of range, among those that are known."""
    listed = look.labels.items() if known is None else enumerate(known.tolist())
    for i, label in listed:
        examples.check_label(i, label)


def _digest(
    both: Sequence[Rows], looks: Sequence[_Look], labels: Sequence[np.ndarray | None]
) -> str:
    """Tells changed data apart: lengths, a few examples, and all labels where they are known."""
    digest = hashlib.sha256()
    for rows, look, known in zip(both, looks, labels, strict=True):
        digest.update(repr(len(rows)).encode() + look.digest)
        digest.update(b"" if known is None else known.astype(np.int64).tobytes())
    return digest.hexdigest()[:12]
