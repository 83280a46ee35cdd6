"""The border for users' sources: their splits are opened, and checked once where they come in."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rrd_jax import errors, imports
from rrd_jax.data.images import conversion, transforms
from rrd_jax.data.source import Source
from rrd_jax.data.sources import split_expressions
from rrd_jax.data.sources.random_access import Examples, Handle, Rows, without_labels
from rrd_jax.data.splits import Splits

_LOOKS = 8  # examples of a split that are looked at when it is opened
_SCANNED = 100_000  # of more examples, the labels are not read one after the other


def open_splits(
    source: Source,
    name: str,
    open_split: Callable[[str], Handle],
    known: Sequence[str] = (),
    *,
    origin: Any = None,
    num_classes: int | None = None,
) -> Splits:
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
    wholes: dict[str, Rows] = {}
    if num_classes is not None and not _is_count(num_classes):
        raise errors.InputError(f"num_classes is {num_classes!r}, but must be an integer above 0")

    def whole(split: str) -> Rows:
        if split not in wholes:
            handle = open_split(split)
            if not source.use_labels:
                handle = without_labels(handle)
            places = range(len(handle.source))
            wholes[split] = Rows(f"split '{split}' of data set '{name}'", ((handle, places),))
        return wholes[split]

    both = [
        _rows(name, expression, whole, known, source.mock_examples)
        for expression in (source.train_split, source.test_split)
    ]
    looks = [_look(rows) for rows in both]
    if not source.use_labels:
        num_classes, origin = 1, None  # all have label 0
    candidates = [*(rows.parts[0][0].source for rows in wholes.values()), origin]
    if num_classes is None:
        num_classes = next(filter(None, map(_declared_classes, candidates)), None)
    # Of all examples: a teacher that sees another part of them must have as many classes.
    labels = {rows.parts[0][0]: _labels(rows, needed=not num_classes) for rows in wholes.values()}
    if num_classes is None:
        num_classes = _found_classes(name, labels.values())
    channels = max(look.channels for look in looks)
    known_labels = [_labels_of_parts(rows, labels) for rows in both]
    splits = [
        Examples(rows, channels, num_classes, known)
        for rows, known in zip(both, known_labels, strict=True)
    ]
    for examples, look, known in zip(splits, looks, known_labels, strict=True):
        _check_labels(examples, look, known)
    version = f"{name} {_digest(both, looks, known_labels)}"
    names = next(filter(None, (_class_names(found, num_classes) for found in candidates)), ())
    _check_same_classes(name, wholes, num_classes)
    shared = split_expressions.overlap(*(rows.parts for rows in both))
    return Splits(version, num_classes, channels, *splits, names, shared=shared)


def _is_count(number: Any) -> bool:
    return errors.is_whole(number) and number > 0


def _found_classes(name: str, labels: Iterable[np.ndarray]) -> int:
    """The number of classes that labels from 0 are of."""
    found = int(max(map(np.max, labels))) + 1
    if found > _SCANNED:
        raise errors.InputError(
            f"data set '{name}' has a label {found - 1}, where labels are classes, counted from 0:"
            " if there are so many, give the source an attribute num_classes"
        )
    return found


def _rows(
    name: str,
    expression: str,
    whole: Callable[[str], Rows],
    known: Sequence[str],
    most: int,
) -> Rows:
    """The rows of a split expression; of each part at most `most`, unless that is 0."""
    what = f"split '{expression}' of data set '{name}'"
    parts = []
    try:
        for part in split_expressions.parse(expression):
            if known and part.name not in known:
                raise ValueError(f"there is no '{part.name}'")
            ((handle, places),) = whole(part.name).parts
            places = part.rows(len(places))
            parts.append((handle, places[:most] if most else places))
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
    return image.shape[-1] if isinstance(image, np.ndarray) else transforms.stored_channels(image)


def _labels(rows: Rows, *, needed: bool) -> np.ndarray | None:
    """All labels of a source: those that it lists, or else, if needed, read one after the other."""
    ((handle, places),) = rows.parts
    listed = _listed_labels(handle.source)
    if listed is not None:
        some = map(int, np.linspace(0, len(places) - 1, min(_LOOKS, len(places))))
        if all(listed[i] == rows.read(i, conversion.label) for i in some):
            return listed
    if not needed:
        return None
    if len(rows) > _SCANNED:
        raise errors.InputError(
            f"{rows.what} does not say how many classes it has, and {len(rows)} examples are too"
            " many to look for the largest label: give the source an attribute num_classes"
        )
    return np.array([rows.read(i, conversion.label) for i in range(len(rows))])


def _listed_labels(source: Any) -> np.ndarray | None:
    for name in ("labels", "targets"):  # the latter as torchvision has it
        listed = imports.attribute_of("the data set", source, name)
        if isinstance(listed, Sequence) or hasattr(listed, "__array__"):
            labels = np.asarray(listed)
            if labels.shape == (len(source),) and np.issubdtype(labels.dtype, np.integer):
                return labels
    return None


def _labels_of_parts(rows: Rows, labels: Mapping[Handle, np.ndarray | None]) -> np.ndarray | None:
    """The labels of a split's examples, where those of all its sources are known."""
    if any(labels[handle] is None for handle, _ in rows.parts):
        return None
    return np.concatenate([labels[h][places.start : places.stop] for h, places in rows.parts])


def _declared_classes(source: Any) -> int | None:
    """What a source says of its number of classes, or what it is a subset of (`dataset`)."""
    while source is not None:
        number = imports.attribute_of("the data set", source, "num_classes")
        if _is_count(number):
            return int(number)
        if isinstance(number, int | float | str):
            raise errors.InputError(
                f"the data set's num_classes is {number!r}, but must be an integer above 0"
            )
        classes = imports.attribute_of("the data set", source, "classes")
        if hasattr(classes, "__len__") and len(classes) and not isinstance(classes, str):
            return len(classes)
        for holder in (source, getattr(source, "dataset_info", None)):  # TFDS's sources
            try:
                return int(holder.features["label"].num_classes)
            except (AttributeError, KeyError, TypeError):
                continue
        source = getattr(source, "dataset", None)  # of torch's Subset
    return None


def _class_names(source: Any, num_classes: int) -> tuple[str, ...]:
    """What a source calls its classes, or what it is a subset of; () where it does not."""
    while source is not None:
        for attribute in ("class_names", "classes"):
            names = imports.attribute_of("the data set", source, attribute)
            if isinstance(names, list | tuple) and len(names) == num_classes:
                return tuple(map(str, names))
        source = getattr(source, "dataset", None)
    return ()


def _check_same_classes(name: str, wholes: Mapping[str, Rows], num_classes: int) -> None:
    """Raises an InputError where two splits call the same label by different names."""
    first = None
    for split, rows in wholes.items():
        names = _class_names(rows.parts[0][0].source, num_classes)
        if first is None and names:
            first = split, names
        if names and names != first[1]:
            label = next(i for i in range(num_classes) if names[i] != first[1][i])
            raise errors.InputError(
                f"data set '{name}': label {label} is '{first[1][label]}' in split '{first[0]}' and"
                f" '{names[label]}' in split '{split}': both must number the classes alike"
            )


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
