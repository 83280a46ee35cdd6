"""Training data made worse on purpose: fewer images, a long tail, wrong labels.

All of it is a function of the labels and of a seed: each process, and each start, sees the same.
"""

import dataclasses
import hashlib
import operator
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from rrd_jax import errors
from rrd_jax.data import sanity
from rrd_jax.data.source import Source
from rrd_jax.data.splits import Splits, Summary
from rrd_jax.data.subsets import stratified
from rrd_jax.terminal import console

_MANY = 100_000  # labels that are read for so long that a line says so
_CHANGES = re.compile(r" with [^()]+ \([0-9a-f]{8}\)$")


@dataclasses.dataclass(frozen=True, eq=False)
class Degraded(Sequence):
    """Some examples of a split, with labels of which some are wrong.

    Attributes:
      examples: the split as it is.
      places: [n] of the examples in it, ascending.
      true_labels: [n] as the split has them.
      labels: [n] as training sees them.
    """

    examples: Sequence[dict[str, Any]]
    places: np.ndarray
    true_labels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> dict[str, Any]:
        i = operator.index(i)
        if i >= len(self):
            raise IndexError(i)
        return {**self.examples[int(self.places[i])], "label": int(self.labels[i])}

    def counts(self, num_classes: int) -> np.ndarray:
        """[C] images of each class, by their true labels."""
        return np.bincount(self.true_labels, minlength=num_classes)


def degrade(source: Source, splits: Splits) -> Splits:
    """What a source makes worse of the training split; the test split stays as it is.

    First the share is taken, of it the long tail, or so many images of each class; of what is left
    labels are made wrong. Random images that stand in for the data (`mock_examples`) are so few
    that all are kept.

    Raises:
      InputError: too few images for the long tail, or a label that is none of the classes.
    """
    if source.mock_examples:
        source = dataclasses.replace(source, share=1.0, per_class=0, imbalance=1.0)
    if not source.is_degraded:
        return splits
    labels = labels_of(splits.train)
    if source.use_labels:
        sanity.check_labels(labels, splits.num_classes, "training")
    places, seed = np.arange(len(labels)), source.noise_seed
    lines, warnings = [], []
    if source.share < 1:
        places = stratified.share(labels, source.share, seed)
        lines.append(_about_share(labels[places], len(labels), "share"))
    if source.per_class:
        counts = np.full(splits.num_classes, source.per_class)
        places = stratified.of_each_class(labels, counts, seed)
        lines.append(_about_share(labels[places], len(labels), "per_class"))
        warnings += _doubt_about_few(source, splits, labels[places])
    if source.imbalance > 1:
        before = len(places)
        places = places[_tail(source, splits, labels[places])]
        lines.append(_about_tail(source, splits, labels[places], before))
        warnings += _doubt_about_tail(source, labels[places])
    seen = labels[places]
    if source.label_noise:
        seen = stratified.noisy(seen, source.label_noise, splits.num_classes, source.noise, seed)
        lines.append(
            f"label noise: {int((seen != labels[places]).sum()):,} of {len(seen):,} training labels"
            f" are wrong ({source.noise}, data.noise_seed {seed})"
        )
    train = Degraded(splits.train, places, labels[places], seen)
    figures = _figures(source, splits, train)
    said = splits.summary
    summary = Summary((*said.lines, *lines), (*said.warnings, *warnings), said.figures | figures)
    version = f"{splits.version} with {_changes(source)} ({_digest(train)})"
    return dataclasses.replace(splits, version=version, train=train, summary=summary)


def origin(version: str) -> str:
    """The version of the data as they are, of a version of data that were made worse, or not."""
    return _CHANGES.sub("", version)


def have_same_origin(one: str | None, other: str | None) -> bool:
    """Whether two versions are of the same data, made worse or not."""
    return origin(one or "") == origin(other or "")


def labels_of(examples: Sequence[dict[str, Any]]) -> np.ndarray:
    """[N] all labels of a split."""
    listed = getattr(examples, "labels", None)
    if listed is None:
        if len(examples) > _MANY:
            console.say(f"all {len(examples):,} training examples are read once, for their labels")
        listed = [examples[i]["label"] for i in range(len(examples))]
    return np.asarray(listed, int)


def _tail(source: Source, splits: Splits, labels: np.ndarray) -> np.ndarray:
    sizes = np.bincount(labels, minlength=splits.num_classes)
    if not sizes.all():
        name = _name(splits, int(np.argmin(sizes)))
        raise errors.InputError(
            f"data.imbalance is {source.imbalance:g}, but there are no training images of {name}:"
            " a long tail needs some of each class"
        )
    counts = stratified.tail_counts(sizes, source.imbalance)
    if not counts.all():
        last = _name(splits, splits.num_classes - 1)
        raise errors.InputError(
            f"data.imbalance is {source.imbalance:g}, but with {counts[0]:,} training images of"
            f" {_name(splits, 0)} there would be none of {last}: at most {counts[0]:,} leaves one"
        )
    return stratified.of_each_class(labels, counts, source.noise_seed)


def _name(splits: Splits, label: int) -> str:
    names = splits.class_names
    return f"class {label} ('{errors.printable(names[label])}')" if names else f"class {label}"


def _about_share(kept: np.ndarray, total: int, field: str) -> str:
    sizes = np.bincount(kept)
    low, high = sizes[sizes > 0].min(), sizes.max()
    spread = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    said = f"{field}: {len(kept):,} of {total:,} training images are used"
    return said if len(sizes) == 1 else f"{said}, {spread} of a class"


def _doubt_about_few(source: Source, splits: Splits, kept: np.ndarray) -> list[str]:
    """A warning, or none: classes with fewer images than were asked for."""
    sizes = np.bincount(kept, minlength=splits.num_classes)
    few = np.flatnonzero(sizes < source.per_class)
    if not few.size:
        return []
    least = few[np.argmin(sizes[few])]
    classes = "1 class has" if few.size == 1 else f"{few.size:,} classes have"
    return [
        f"data.per_class is {source.per_class:,}, but {classes} fewer training images, of which all"
        f" are used: {sizes[least]:,} of {_name(splits, int(least))}"
    ]


def _about_tail(source: Source, splits: Splits, kept: np.ndarray, before: int) -> str:
    sizes = np.bincount(kept)
    return (
        f"long tail of {source.imbalance:g}: {len(kept):,} of {before:,} training images are used,"
        f" {sizes[0]:,} of {_name(splits, 0)} to {sizes[-1]:,} of {_name(splits, len(sizes) - 1)}"
    )


def _doubt_about_tail(source: Source, kept: np.ndarray) -> list[str]:
    """A warning, or none: counts of few images are whole numbers of another ratio."""
    sizes = np.bincount(kept)
    if sizes[0] <= 1.1 * source.imbalance * sizes[-1]:
        return []
    return [
        f"data.imbalance is {source.imbalance:g}, but the classes are so small that it becomes"
        f" {sizes[0]:,} to {sizes[-1]:,}: counts are rounded down"
    ]


def _changes(source: Source) -> str:
    """Which fields make the data worse, as users set them."""
    parts = []
    if source.share < 1:
        parts.append(f"share {source.share:g}")
    if source.per_class:
        parts.append(f"per_class {source.per_class}")
    if source.imbalance > 1:
        parts.append(f"imbalance {source.imbalance:g}")
    if source.label_noise:
        parts.append(f"{source.noise} label_noise {source.label_noise:g}")
    return ", ".join([*parts, f"noise_seed {source.noise_seed}"])


def _digest(train: Degraded) -> str:
    arrays = (train.places, train.labels)
    content = b"".join(array.astype("<i8").tobytes() for array in arrays)
    return hashlib.sha256(content).hexdigest()[:8]


def _figures(source: Source, splits: Splits, train: Degraded) -> dict[str, Any]:
    """What was made worse, for data.json."""
    counts = train.counts(splits.num_classes).tolist()
    about = {
        "share": source.share,
        "per_class": source.per_class,
        "imbalance": source.imbalance,
        "label_noise": source.label_noise,
        "noise": source.noise,
        "noise_seed": source.noise_seed,
        "images": len(train),
        "of": len(splits.train),
        "images of each class": counts,
        "wrong labels": int((train.labels != train.true_labels).sum()),
    }
    found: dict[str, Any] = {"degraded": about}
    if images := splits.summary.figures.get("images"):  # of a folder, by the names of its classes
        found["images"] = images | {"train": dict(zip(splits.class_names, counts, strict=True))}
    return found
