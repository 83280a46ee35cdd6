"""Degrades training data on purpose: fewer images, a long tail, wrong labels.

Everything is a function of the labels and of a seed: each process, and each start, gets the same.
"""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from rrd_jax import errors
from rrd_jax.data import sanity
from rrd_jax.data.source import Source
from rrd_jax.data.splits import Examples, Splits, Summary
from rrd_jax.data.subsets import stratified
from rrd_jax.terminal import console

_MANY = 100_000  # labels that take so long to read that it is reported
_CHANGES = re.compile(r" with [^()]+ \([0-9a-f]{8}\)$")


@dataclasses.dataclass(frozen=True, eq=False)
class Degraded(Examples):
    """Some examples of a split, with labels of which some are wrong.

    Attributes:
      examples: the whole split.
      places: [n] indices of the examples in it, ascending.
      true_labels: [n] labels in the whole split.
      labels: [n] labels for training.
    """

    examples: Sequence[dict[str, Any]]
    places: np.ndarray
    true_labels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def read(self, i: int) -> dict[str, Any]:
        """Returns example i with its label for training."""
        return {**self.examples[int(self.places[i])], "label": int(self.labels[i])}

    def counts(self, num_classes: int) -> np.ndarray:
        """Returns [C] numbers of images of each class, by their true labels."""
        return np.bincount(self.true_labels, minlength=num_classes)


def degrade(source: Source, splits: Splits) -> Splits:
    """Returns splits whose training split is degraded as a source asks for.

    First the share is taken, of it the long tail, or a number of images of each class; of the
    remaining labels some are made wrong. Random images that stand in for the data
    (`mock_examples`) are so few that all are kept.

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
    summary, changes = splits.summary, []
    if source.share < 1:
        places = stratified.share(labels, source.share, seed)
        summary += Summary((_describe_share(labels[places], len(labels), "share"),))
        changes.append(f"share {source.share:g}")
    if source.per_class:
        counts = np.full(splits.num_classes, source.per_class)
        places = stratified.of_each_class(labels, counts, seed)
        line = _describe_share(labels[places], len(labels), "per_class")
        summary += Summary((line,), _warn_of_small_classes(source, splits, labels[places]))
        changes.append(f"per_class {source.per_class}")
    if source.imbalance > 1:
        before = len(places)
        places = places[_tail(source, splits, labels[places])]
        summary += _describe_tail(source, splits, labels[places], before)
        changes.append(f"imbalance {source.imbalance:g}")
    noisy = true = labels[places]
    if source.label_noise:
        noisy = stratified.noisy(true, source.label_noise, splits.num_classes, source.noise, seed)
        line = (
            f"label noise: {int((noisy != true).sum()):,} of {len(noisy):,} training labels are"
            f" wrong ({source.noise}, data.noise_seed {seed})"
        )
        summary += Summary((line,))
        changes.append(f"{source.noise} label_noise {source.label_noise:g}")
    train = Degraded(splits.train, places, true, noisy)
    summary += Summary(figures=_figures(source, splits, train))
    fields = ", ".join([*changes, f"noise_seed {seed}"])
    version = f"{splits.version} with {fields} ({_digest(train)})"
    return dataclasses.replace(splits, version=version, train=train, summary=summary)


def origin(version: str) -> str:
    """Returns the version of the undegraded data that a version is of."""
    return _CHANGES.sub("", version)


def have_same_origin(one: str | None, other: str | None) -> bool:
    """Returns True if two versions are of the same data, degraded or not."""
    return origin(one or "") == origin(other or "")


def labels_of(examples: Sequence[dict[str, Any]]) -> np.ndarray:
    """Returns [N] all labels of a split."""
    labels = getattr(examples, "labels", None)
    if labels is None:
        if len(examples) > _MANY:
            console.say(f"all {len(examples):,} training examples are read once, for their labels")
        labels = [examples[i]["label"] for i in range(len(examples))]
    return np.asarray(labels, int)


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


def _describe_share(kept: np.ndarray, total: int, field: str) -> str:
    sizes = np.bincount(kept)
    low, high = sizes[sizes > 0].min(), sizes.max()
    spread = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    line = f"{field}: {len(kept):,} of {total:,} training images are used"
    return line if len(sizes) == 1 else f"{line}, {spread} of a class"


def _warn_of_small_classes(source: Source, splits: Splits, kept: np.ndarray) -> tuple[str, ...]:
    """Returns a warning, or none, about classes with fewer images than `per_class`."""
    sizes = np.bincount(kept, minlength=splits.num_classes)
    small = np.flatnonzero(sizes < source.per_class)
    if not small.size:
        return ()
    least = small[np.argmin(sizes[small])]
    classes = "1 class has" if small.size == 1 else f"{small.size:,} classes have"
    return (
        f"data.per_class is {source.per_class:,}, but {classes} fewer training images, of which all"
        f" are used: {sizes[least]:,} of {_name(splits, int(least))}",
    )


def _describe_tail(source: Source, splits: Splits, kept: np.ndarray, before: int) -> Summary:
    sizes, warnings = np.bincount(kept), ()
    line = (
        f"long tail of {source.imbalance:g}: {len(kept):,} of {before:,} training images are used,"
        f" {sizes[0]:,} of {_name(splits, 0)} to {sizes[-1]:,} of {_name(splits, len(sizes) - 1)}"
    )
    if sizes[0] > 1.1 * source.imbalance * sizes[-1]:
        warnings = (
            f"data.imbalance is {source.imbalance:g}, but the classes are so small that it becomes"
            f" {sizes[0]:,} to {sizes[-1]:,}: counts are rounded down",
        )
    return Summary((line,), warnings)


def _digest(train: Degraded) -> str:
    arrays = (train.places, train.labels)
    content = b"".join(array.astype("<i8").tobytes() for array in arrays)
    return hashlib.sha256(content).hexdigest()[:8]


def _figures(source: Source, splits: Splits, train: Degraded) -> dict[str, Any]:
    """Returns what was degraded, for data.json."""
    counts = train.counts(splits.num_classes).tolist()
    fields = ("share", "per_class", "imbalance", "label_noise", "noise", "noise_seed")
    figures: dict[str, Any] = {
        "degraded": {
            **{field: getattr(source, field) for field in fields},
            "images": len(train),
            "of": len(splits.train),
            "images of each class": counts,
            "wrong labels": int((train.labels != train.true_labels).sum()),
        }
    }
    # A folder reports its images by the names of its classes.
    if images := splits.summary.figures.get("images"):
        figures["images"] = images | {"train": dict(zip(splits.class_names, counts, strict=True))}
    return figures
