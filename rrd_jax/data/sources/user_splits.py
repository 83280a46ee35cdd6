"""Opens the splits of users' sources, and checks their examples once."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rrd_jax import errors, imports
from rrd_jax.data.images import example_forms, transforms
from rrd_jax.data.source import Source
from rrd_jax.data.sources import split_expressions
from rrd_jax.data.sources.random_access import Examples, Handle, Rows, without_labels
from rrd_jax.data.splits import Splits

_LOOKS = 8  # examples of a split that are read when it is opened
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
    """Opens the two splits of a source that is not TFDS's.

    Args:
      source: split expressions, and how many examples stand in for the data, if any.
      name: name of the set, for its version.
      open_split: the name of a split, without a slice -> its source.
      known: names of the splits, for messages; empty if any name is allowed.
      origin: the object that has the sources; it too may have `classes` or `num_classes`.
      num_classes: C; None to find it.

    Raises:
      InputError: a split or an example that cannot be used.
      UserCodeError: the source raised.
    """
    wholes: dict[str, Rows] = {}
    if num_classes is not None:
        errors.check_counts(num_classes=num_classes)

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
    if not source.use_labels:  # All labels are 0.
        num_classes, origin = 1, None
    candidates = [*(rows.parts[0][0].source for rows in wholes.values()), origin]
    if num_classes is None:
        num_classes = next(filter(None, map(_declared_classes, candidates)), None)
    # Labels of all examples: a teacher on another part of them must have as many classes.
    labels = {rows.parts[0][0]: _labels(rows, needed=not num_classes) for rows in wholes.values()}
    if num_classes is None:
        largest = int(max(map(np.max, labels.values())))
        if largest >= _SCANNED:
            raise errors.InputError(
                f"data set '{name}' has a label {largest}, where labels are classes, counted from"
                " 0: if there are so many, give the source an attribute num_classes"
            )
        num_classes = largest + 1
    channels, splits, digest = max(look.channels for look in looks), [], hashlib.sha256()
    for rows, look in zip(both, looks, strict=True):
        split_labels = None
        if all(labels[handle] is not None for handle, _ in rows.parts):
            parts = [labels[handle][p.start : p.stop] for handle, p in rows.parts]
            split_labels = np.concatenate(parts)
        examples = Examples(rows, channels, num_classes, split_labels)
        pairs = look.labels.items() if split_labels is None else enumerate(split_labels.tolist())
        for i, label in pairs:
            examples.check_label(i, label)
        digest.update(repr(len(rows)).encode() + look.digest)
        digest.update(b"" if split_labels is None else split_labels.astype(np.int64).tobytes())
        splits.append(examples)
    version = f"{name} {digest.hexdigest()[:12]}"
    names = next(filter(None, (_class_names(holder, num_classes) for holder in candidates)), ())
    _check_same_classes(name, wholes, num_classes)
    shared = split_expressions.overlap(*(rows.parts for rows in both))
    return Splits(version, num_classes, channels, *splits, names, shared=shared)


def _rows(
    name: str,
    expression: str,
    whole: Callable[[str], Rows],
    known: Sequence[str],
    most: int,
) -> Rows:
    """Returns the rows of a split expression; of each part at most `most`, unless that is 0."""
    subject = f"split '{expression}' of data set '{name}'"
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
        raise errors.InputError(f"{subject} cannot be read ({error}){listed}") from error
    return Rows(subject, tuple(parts))


class _Look(NamedTuple):
    """The first look at a few examples of a split.

    Attributes:
      channels: the most channels of their images.
      labels: their labels, by index.
      digest: digest of their images and labels.
    """

    channels: int
    labels: dict[int, int]
    digest: bytes


def _look(rows: Rows) -> _Look:
    """Reads the first example, the last, and some between, each of them twice.

    Raises:
      InputError: one of them cannot be used, or changes from one time to the next, or none is an
        image.
    """
    digest, labels, channels, damage = hashlib.sha256(), {}, 0, None
    for i in _some_places(len(rows)):
        example, again = rows.read(i), rows.read(i)
        if _content(example) != _content(again):
            raise errors.InputError(
                f"example {i} of {rows.what} is another each time that it is read: leave out what"
                " changes images at random, which a run that goes on could not repeat;"
                " data.augment does it"
            )
        digest.update(_content(example))
        labels[i] = example["label"]
        image = example["image"]
        try:
            is_array = isinstance(image, np.ndarray)
            count = image.shape[-1] if is_array else transforms.stored_channels(image)
            channels = max(channels, count)
        except errors.InputError as error:  # Such an image is replaced by a black one.
            damage = errors.InputError(f"example {i} of {rows.what} cannot be used: {error}")
    if not channels:
        raise damage
    return _Look(channels, labels, digest.digest())


def _some_places(count: int) -> list[int]:
    return [int(i) for i in np.linspace(0, count - 1, min(_LOOKS, count))]


def _content(example: Mapping[str, Any]) -> bytes:
    image = example["image"]
    if isinstance(image, np.ndarray):
        image = repr(image.shape).encode() + image.tobytes()
    return image + repr(example["label"]).encode()


def _labels(rows: Rows, *, needed: bool) -> np.ndarray | None:
    """Returns all labels of a source: those that it lists, or if needed, those of its examples."""
    ((handle, places),) = rows.parts
    for name in ("labels", "targets"):  # The latter is torchvision's.
        listed = imports.attribute_of("the data set", handle.source, name)
        if not (isinstance(listed, Sequence) or hasattr(listed, "__array__")):
            continue
        labels = np.asarray(listed)
        if labels.shape == (len(handle.source),) and np.issubdtype(labels.dtype, np.integer):
            # Subsets may list the labels of the whole set.
            some = _some_places(len(places))
            if all(labels[i] == rows.read(i, example_forms.label) for i in some):
                return labels
            break
    if not needed:
        return None
    if len(rows) > _SCANNED:
        raise errors.InputError(
            f"{rows.what} does not say how many classes it has, and {len(rows)} examples are too"
            " many to look for the largest label: give the source an attribute num_classes"
        )
    return np.array([rows.read(i, example_forms.label) for i in range(len(rows))])


def _with_origins(source: Any) -> Iterator[Any]:
    """Yields a source, and the data sets that it is a subset of, as torch's Subset has them."""
    while source is not None:
        yield source
        source = getattr(source, "dataset", None)


def _declared_classes(source: Any) -> int | None:
    """Returns the number of classes that a source declares, or what it is a subset of."""
    for holder in _with_origins(source):
        number = imports.attribute_of("the data set", holder, "num_classes")
        if isinstance(number, int | float | str) or errors.is_whole(number):
            errors.check_counts(**{"the data set's num_classes": number})
            return int(number)
        classes = imports.attribute_of("the data set", holder, "classes")
        if hasattr(classes, "__len__") and len(classes) and not isinstance(classes, str):
            return len(classes)
        for described in (holder, getattr(holder, "dataset_info", None)):  # TFDS's sources
            try:
                return int(described.features["label"].num_classes)
            except (AttributeError, KeyError, TypeError):
                continue
    return None


def _class_names(source: Any, num_classes: int) -> tuple[str, ...]:
    """Returns the class names of a source, or of what it is a subset of; () if it has none."""
    for holder in _with_origins(source):
        for attribute in ("class_names", "classes"):
            names = imports.attribute_of("the data set", holder, attribute)
            if isinstance(names, list | tuple) and len(names) == num_classes:
                return tuple(map(str, names))
    return ()


def _check_same_classes(name: str, wholes: Mapping[str, Rows], num_classes: int) -> None:
    """Raises an InputError if two splits give one label different names."""
    named = {
        split: names
        for split, rows in wholes.items()
        if (names := _class_names(rows.parts[0][0].source, num_classes))
    }
    first = next(iter(named), "")
    for split, names in named.items():
        for label, (one, other) in enumerate(zip(named[first], names, strict=True)):
            if one != other:
                raise errors.InputError(
                    f"data set '{name}': label {label} is '{one}' in split '{first}' and '{other}'"
                    f" in split '{split}': both must number the classes alike"
                )
