"""Opens the splits of custom sources, and checks some of their examples."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rrd_jax import errors, imports
from rrd_jax.data import label_checks
from rrd_jax.data.images import example_forms, transforms
from rrd_jax.data.source import Source
from rrd_jax.data.sources import split_expressions
from rrd_jax.data.sources.first_reads import FirstReads
from rrd_jax.data.sources.random_access import (
    Handle,
    Rows,
    UserExamples,
    content,
    without_labels,
)
from rrd_jax.data.splits import Splits

# Number of examples that are read when a split is opened.
_SAMPLE_SIZE = 8
# Largest number of examples whose labels are read one by one.
_MAX_SCANNED = 100_000


def open_splits(
    source: Source,
    name: str,
    open_split: Callable[[str], Handle],
    split_names: Sequence[str] = (),
    *,
    origin: Any = None,
    num_classes: int | None = None,
) -> Splits:
    """Opens the two splits of a source outside TFDS.

    Args:
      source: split expressions, and the number of mock examples.
      name: name of the data set, for the version.
      open_split: returns the source of a split by name, without a slice.
      split_names: names of the splits, for messages; empty if any name is allowed.
      origin: the object that provides the sources; may have `classes` or `num_classes`.
      num_classes: C; None to infer the number from the source.

    Raises:
      InputError: a split or an example is invalid.
      UserCodeError: the source raised an exception.
    """
    whole_splits: dict[str, Rows] = {}
    if num_classes is not None:
        errors.check_counts(num_classes=num_classes)

    def open_whole(split: str) -> Rows:
        if split not in whole_splits:
            handle = open_split(split)
            if not source.use_labels:
                handle = without_labels(handle)
            indices = range(len(handle.source))
            whole_splits[split] = Rows(
                f"split '{split}' of data set '{name}'", ((handle, indices),)
            )
        return whole_splits[split]

    both = [
        _rows(name, expression, open_whole, split_names, source.mock_examples)
        for expression in (source.train_split, source.test_split)
    ]
    samples = [_read_sample(rows, source.background) for rows in both]
    # Without labels, all labels are 0.
    if not source.use_labels:
        num_classes, origin = 1, None
    candidates = [*(rows.parts[0][0].source for rows in whole_splits.values()), origin]
    if num_classes is None:
        num_classes = next(filter(None, map(_declared_classes, candidates)), None)
    # Labels of whole splits: a teacher on another part of the data needs the same classes.
    labels = {
        rows.parts[0][0]: _labels(rows, needed=not num_classes) for rows in whole_splits.values()
    }
    if num_classes is None:
        largest = int(max(map(np.max, labels.values())))
        if largest >= _MAX_SCANNED:
            raise errors.InputError(
                f"data set '{name}' has label {largest}, but labels must be class indices below"
                f" {_MAX_SCANNED:,}; for more classes, set num_classes on the source"
            )
        num_classes = largest + 1
    channels, splits, digest = max(sample.channels for sample in samples), [], hashlib.sha256()
    for rows, sample in zip(both, samples, strict=True):
        split_labels = None
        if all(labels[handle] is not None for handle, _ in rows.parts):
            parts = [labels[handle][p.start : p.stop] for handle, p in rows.parts]
            split_labels = np.concatenate(parts)
        counts = tuple(len(handle.source) for handle, _ in rows.parts)
        first_reads = FirstReads(len(rows))
        examples = UserExamples(
            rows, channels, num_classes, source.background, split_labels, counts, first_reads
        )
        pairs = sample.labels.items() if split_labels is None else enumerate(split_labels.tolist())
        for i, label in pairs:
            examples.check_label(i, label)
        digest.update(repr(len(rows)).encode() + sample.digest)
        digest.update(b"" if split_labels is None else split_labels.astype(np.int64).tobytes())
        splits.append(examples)
    version = f"{name} {digest.hexdigest()[:12]}"
    names = next(filter(None, (_class_names(holder, num_classes) for holder in candidates)), ())
    _check_same_classes(name, whole_splits, num_classes)
    train, test = (rows.parts for rows in both)
    return Splits(
        version,
        num_classes,
        channels,
        *splits,
        names,
        shared=split_expressions.overlap(train, test),
        repeated=split_expressions.repeated(train),
    )


def _rows(
    name: str,
    expression: str,
    open_whole: Callable[[str], Rows],
    split_names: Sequence[str],
    limit: int,
) -> Rows:
    """Returns the rows of a split expression, at most `limit` per part; 0 for no limit."""
    subject = f"split '{expression}' of data set '{name}'"
    parts = []
    try:
        for part in split_expressions.parse(expression):
            if split_names and part.name not in split_names:
                raise ValueError(f"unknown split '{part.name}'")
            ((handle, indices),) = open_whole(part.name).parts
            indices = part.rows(len(indices))
            parts.append((handle, indices[:limit] if limit else indices))
        if not sum(len(indices) for _, indices in parts):
            raise ValueError("the split is empty")
    except errors.InputError:
        raise
    except ValueError as error:
        remedy = f"; available splits: {', '.join(split_names)}, or parts such as train[90%:]"
        raise errors.InputError(
            f"{subject} cannot be read ({error}){remedy if split_names else ''}"
        ) from error
    return Rows(subject, tuple(parts))


class _Sample(NamedTuple):
    """The examples of a split that are read when the split is opened.

    Attributes:
      channels: largest number of channels of the images.
      labels: labels of the examples by index.
      digest: digest of the images and labels.
    """

    channels: int
    labels: dict[int, int]
    digest: bytes


def _read_sample(rows: Rows, background: str) -> _Sample:
    """Reads evenly spaced examples, including the first and the last, twice.

    Args:
      rows: the split.
      background: color behind transparent pixels, see `settings.kinds.Color`.

    Raises:
      InputError: an example is invalid, or differs between the two reads, or no image can be
        decoded.
    """
    digest, labels, channels, damage = hashlib.sha256(), {}, 0, None
    form = functools.partial(example_forms.conform, background=background)
    for i in _sample_indices(len(rows)):
        example, again = rows.read(i, form), rows.read(i, form)
        if content(example) != content(again):
            raise errors.InputError(
                f"example {i} of {rows.description} changes between two reads; remove random"
                " transforms from the source, because a resumed run could not repeat them, and use"
                " data.augment for augmentation"
            )
        digest.update(content(example))
        labels[i] = example["label"]
        image = example["image"]
        try:
            is_array = isinstance(image, np.ndarray)
            count = image.shape[-1] if is_array else transforms.stored_channels(image)
            channels = max(channels, count)
        # Training replaces an undecodable image by a black one.
        except errors.InputError as error:
            damage = errors.InputError(f"example {i} of {rows.description} cannot be used: {error}")
    if not channels:
        raise damage
    return _Sample(channels, labels, digest.digest())


def _sample_indices(count: int) -> list[int]:
    return [int(i) for i in np.linspace(0, count - 1, min(_SAMPLE_SIZE, count))]


def _labels(rows: Rows, *, needed: bool) -> np.ndarray | None:
    """Returns all labels from the source's list or, if needed, from its examples; else None."""
    ((handle, indices),) = rows.parts
    # Data sets of torchvision have `targets`.
    for name in ("labels", "targets"):
        declared = imports.attribute_of("the data set", handle.source, name)
        if not (isinstance(declared, Sequence) or hasattr(declared, "__array__")):
            continue
        labels = np.asarray(declared)
        if labels.shape == (len(handle.source),) and np.issubdtype(labels.dtype, np.integer):
            # A subset may list the labels of the whole data set.
            sample = _sample_indices(len(indices))
            if all(labels[i] == rows.read(i, example_forms.label) for i in sample):
                return labels
            break
    if not needed:
        return None
    if len(rows) > _MAX_SCANNED:
        raise errors.InputError(
            f"{rows.description} has no num_classes, and {len(rows)} examples are too many to read"
            " for the largest label; set num_classes on the source"
        )
    return np.array([rows.read(i, example_forms.label) for i in range(len(rows))])


def _with_origins(source: Any) -> Iterator[Any]:
    """Yields a source and the data sets below its attribute `dataset`, as in PyTorch's Subset."""
    while source is not None:
        yield source
        source = getattr(source, "dataset", None)


def _declared_classes(source: Any) -> int | None:
    """Returns the number of classes that a source or its underlying data set declares, or None."""
    for holder in _with_origins(source):
        number = imports.attribute_of("the data set", holder, "num_classes")
        if isinstance(number, int | float | str) or errors.is_whole(number):
            errors.check_counts(**{"the data set's num_classes": number})
            return int(number)
        classes = imports.attribute_of("the data set", holder, "classes")
        if hasattr(classes, "__len__") and len(classes) and not isinstance(classes, str):
            return len(classes)
        # Sources of TFDS have `dataset_info`.
        for described in (holder, getattr(holder, "dataset_info", None)):
            try:
                return int(described.features["label"].num_classes)
            except (AttributeError, KeyError, TypeError):
                continue
    return None


def _class_names(source: Any, num_classes: int) -> tuple[str, ...]:
    """Returns the class names of a source or its underlying data set, or ().

    Raises:
      InputError: the source itself has another number of names than classes.
    """
    for holder in _with_origins(source):
        for attribute in ("class_names", "classes"):
            names = imports.attribute_of("the data set", holder, attribute)
            if not isinstance(names, list | tuple) or not names:
                continue
            # A subset may have fewer classes than its underlying data set.
            if len(names) == num_classes or holder is source:
                label_checks.check_names(
                    tuple(map(str, names)), num_classes, f"the data set's {attribute}"
                )
                return tuple(map(str, names))
    return ()


def _check_same_classes(name: str, whole_splits: Mapping[str, Rows], num_classes: int) -> None:
    """Raises an InputError if two splits have different names for a label."""
    named = {
        split: names
        for split, rows in whole_splits.items()
        if (names := _class_names(rows.parts[0][0].source, num_classes))
    }
    first = next(iter(named), "")
    for split, names in named.items():
        for label, (name_a, name_b) in enumerate(zip(named[first], names, strict=True)):
            if name_a != name_b:
                raise errors.InputError(
                    f"data set '{name}': label {label} is '{name_a}' in split '{first}' and"
                    f" '{name_b}' in split '{split}'; use one order of classes in both splits"
                )
