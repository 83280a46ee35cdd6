"""Divides and degrades training data: held-out images, fewer images, a long tail, wrong labels.

The result depends only on the labels and a seed, so it is equal in all processes and resumed runs.
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

# Number of labels above which reading all labels is logged.
_REPORT_THRESHOLD = 100_000
_CHANGES = re.compile(r" with [^()]+ \([0-9a-f]{8}\)$")


@dataclasses.dataclass(frozen=True, eq=False)
class Degraded(Examples):
    """A selection of the examples of a split, with partly wrong labels.

    Attributes:
      examples: the whole split.
      indices: [n], indices of the examples in the whole split, ascending.
      true_labels: [n], labels in the whole split.
      labels: [n], labels for training.
    """

    examples: Sequence[dict[str, Any]]
    indices: np.ndarray
    true_labels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, i: int) -> dict[str, Any]:
        """Returns example i with its label for training."""
        return {**self.examples[int(self.indices[i])], "label": int(self.labels[i])}

    @property
    def listed_labels(self) -> np.ndarray:
        """Labels for training, [n]."""
        return self.labels

    def counts(self, num_classes: int) -> np.ndarray:
        """Returns [C], the number of images per class by their true labels."""
        return np.bincount(self.true_labels, minlength=num_classes)


def degrade(source: Source, splits: Splits) -> Splits:
    """Returns splits with the training split divided and degraded by the fields of a source.

    Validation images are held out first. Of the other images, a share is drawn, then the long tail;
    or a number of images per class. Label noise applies to the remaining images. All mock examples
    are used.

    Raises:
      InputError: there are too few images for validation or for the long tail, or a label is out of
        range.
    """
    if source.mock_examples:
        source = dataclasses.replace(source, val_split=0.0, share=1.0, per_class=0, imbalance=1.0)
    if not source.is_degraded:
        return splits
    labels = labels_of(splits.train)
    if source.use_labels:
        sanity.check_labels(labels, splits.num_classes, "training")
    indices, seed = np.arange(len(labels)), source.noise_seed
    summary, changes, validation = splits.summary, [], None
    if source.val_split:
        chosen = _draw_validation(source, splits, labels)
        indices = np.setdiff1d(indices, chosen)
        validation = Degraded(splits.train, chosen, labels[chosen], labels[chosen])
        summary += _describe_validation(source, labels[indices], labels[chosen])
        changes.append(f"val_split {_number(source.val_split)}")
    available = len(indices)
    if source.share < 1:
        indices = indices[stratified.draw_share(labels[indices], source.share, seed)]
        summary += Summary((_describe_share(labels[indices], available, "share"),))
        changes.append(f"share {source.share:g}")
    if source.per_class:
        counts = np.full(splits.num_classes, source.per_class)
        indices = indices[stratified.draw_per_class(labels[indices], counts, seed)]
        line = _describe_share(labels[indices], available, "per_class")
        summary += Summary((line,), _warn_of_small_classes(source, splits, labels[indices]))
        changes.append(f"per_class {source.per_class}")
    if source.imbalance > 1:
        before = len(indices)
        indices = indices[_draw_tail(source, splits, labels[indices])]
        summary += _describe_tail(source, splits, labels[indices], before)
        changes.append(f"imbalance {source.imbalance:g}")
    noisy = true = labels[indices]
    if source.label_noise:
        noisy = stratified.corrupt_labels(
            true, source.label_noise, splits.num_classes, source.noise, seed
        )
        line = (
            f"label noise: {int((noisy != true).sum()):,} of {len(noisy):,} training labels are"
            f" wrong ({source.noise}, data.noise_seed {seed})"
        )
        summary += Summary((line,))
        changes.append(f"{source.noise} label_noise {source.label_noise:g}")
    train = Degraded(splits.train, indices, true, noisy)
    summary += Summary(details=_details(source, splits, train, validation))
    fields = ", ".join([*changes, f"noise_seed {seed}"])
    version = f"{splits.version} with {fields} ({_digest(train)})"
    name = splits.display_name and f"{splits.display_name} with {fields}"
    return dataclasses.replace(
        splits,
        version=version,
        train=train,
        validation=validation,
        summary=summary,
        display_name=name,
    )


def origin(version: str) -> str:
    """Returns the version of the original data for a version of degraded data."""
    return _CHANGES.sub("", version)


def have_same_origin(version: str | None, other: str | None) -> bool:
    """Returns True if two versions have the same original data, degraded or not."""
    return origin(version or "") == origin(other or "")


def labels_of(examples: Sequence[dict[str, Any]]) -> np.ndarray:
    """Returns all labels of a split, [N]."""
    labels = getattr(examples, "labels", None)
    if labels is None:
        if len(examples) > _REPORT_THRESHOLD:
            console.say(f"labels: reading all {len(examples):,} training examples once")
        labels = [examples[i]["label"] for i in range(len(examples))]
    return np.asarray(labels, int)


def _draw_validation(source: Source, splits: Splits, labels: np.ndarray) -> np.ndarray:
    """Returns the indices of the validation images, ascending.

    Raises:
      InputError: no image, or all images of a class, would be held out, or images are repeated.
    """
    value, total = source.val_split, len(labels)
    count = round(value * total) if value < 1 else int(value)
    subject = (
        f"data.val_split is {_number(value)}, {count:,} of the {total:,} images of split"
        f" '{source.train_split}'"
    )
    if not 0 < count < total:
        raise errors.InputError(
            f"{subject}; set it to a share such as 0.1 or to fewer images, so that both parts have"
            " images"
        )
    if splits.repeated:
        raise errors.InputError(
            f"data.val_split is {_number(value)}, but data.train_split '{source.train_split}'"
            f" contains {splits.repeated:,} of its images twice, so that validation images would"
            " be trained on; use disjoint parts"
        )
    chosen = stratified.draw_validation(labels, count, source.noise_seed)
    remaining = np.bincount(np.delete(labels, chosen), minlength=labels.max() + 1)
    if (lost := np.flatnonzero((remaining == 0) & (np.bincount(labels) > 0))).size:
        classes = "1 class" if lost.size == 1 else f"{lost.size:,} classes"
        raise errors.InputError(
            f"{subject}, which leaves {classes} without training images, such as"
            f" {_name(splits, int(lost[0]))}; set it to a smaller value"
        )
    return chosen


def _number(value: float) -> str:
    """Formats a share or a count."""
    return f"{value:g}" if value < 1 else str(int(value))


def _describe_validation(source: Source, remaining: np.ndarray, chosen: np.ndarray) -> Summary:
    total = len(chosen) + len(remaining)
    line = (
        f"val_split: {len(chosen):,} of {total:,} training images are held out for validation"
        f"{_spread(chosen)} (data.noise_seed {source.noise_seed}); {len(remaining):,} remain for"
        " training"
    )
    return Summary((line,))


def _draw_tail(source: Source, splits: Splits, labels: np.ndarray) -> np.ndarray:
    sizes = np.bincount(labels, minlength=splits.num_classes)
    if not sizes.all():
        name = _name(splits, int(np.argmin(sizes)))
        raise errors.InputError(
            f"data.imbalance is {source.imbalance:g}, but there are no training images of {name};"
            " add images of every class, or set data.imbalance to 1"
        )
    counts = stratified.tail_counts(sizes, source.imbalance)
    if not counts.all():
        last = _name(splits, splits.num_classes - 1)
        raise errors.InputError(
            f"data.imbalance is {source.imbalance:g}, but with {counts[0]:,} training images of"
            f" {_name(splits, 0)} no images of {last} remain; set it to at most {counts[0]:,}"
        )
    return stratified.draw_per_class(labels, counts, source.noise_seed)


def _name(splits: Splits, label: int) -> str:
    names = splits.class_names
    return f"class {label} ('{errors.printable(names[label])}')" if names else f"class {label}"


def _describe_share(selected: np.ndarray, total: int, field: str) -> str:
    return f"{field}: {len(selected):,} of {total:,} training images are used{_spread(selected)}"


def _spread(selected: np.ndarray) -> str:
    """Returns a clause with the number of images per class; "" for one class."""
    sizes = np.bincount(selected)
    low, high = sizes[sizes > 0].min(), sizes.max()
    spread = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return "" if len(sizes) == 1 else f", {spread} per class"


def _warn_of_small_classes(source: Source, splits: Splits, selected: np.ndarray) -> tuple[str, ...]:
    """Returns a tuple with a warning about classes with fewer images than `per_class`, or ()."""
    sizes = np.bincount(selected, minlength=splits.num_classes)
    small = np.flatnonzero(sizes < source.per_class)
    if not small.size:
        return ()
    least = small[np.argmin(sizes[small])]
    classes = "1 class has" if small.size == 1 else f"{small.size:,} classes have"
    return (
        f"data.per_class is {source.per_class:,}, but {classes} fewer training images, such as"
        f" {_name(splits, int(least))} with {sizes[least]:,}; all of them are used",
    )


def _describe_tail(source: Source, splits: Splits, selected: np.ndarray, before: int) -> Summary:
    sizes, warnings = np.bincount(selected), ()
    line = (
        f"imbalance {source.imbalance:g}: {len(selected):,} of {before:,} training images are used,"
        f" {sizes[0]:,} of {_name(splits, 0)} to {sizes[-1]:,} of {_name(splits, len(sizes) - 1)}"
    )
    if sizes[0] > 1.1 * source.imbalance * sizes[-1]:
        warnings = (
            f"data.imbalance is {source.imbalance:g}, but the ratio becomes {sizes[0]:,} to"
            f" {sizes[-1]:,}: counts are rounded down, and the classes are small",
        )
    return Summary((line,), warnings)


def _digest(train: Degraded) -> str:
    arrays = (train.indices, train.labels)
    content = b"".join(array.astype("<i8").tobytes() for array in arrays)
    return hashlib.sha256(content).hexdigest()[:8]


def _details(
    source: Source, splits: Splits, train: Degraded, validation: Degraded | None
) -> dict[str, Any]:
    """Returns the details of the division and degradation for data.json."""
    fields = ("share", "per_class", "imbalance", "label_noise", "noise", "noise_seed")
    if validation is not None:
        fields = ("val_split", *fields)
    details: dict[str, Any] = {
        "degraded": {
            **{field: getattr(source, field) for field in fields},
            "images": len(train),
            "of": len(splits.train),
            "images of each class": train.counts(splits.num_classes).tolist(),
            "wrong labels": int((train.labels != train.true_labels).sum()),
        }
    }
    # Image folders report the number of images by class name.
    if images := splits.summary.details.get("images"):
        parts = {"train": train} | ({} if validation is None else {"val": validation})
        details["images"] = images | {
            name: _counts_by_name(part, splits) for name, part in parts.items()
        }
    return details


def _counts_by_name(part: Degraded, splits: Splits) -> dict[str, int] | int:
    """Returns the number of images by class name, or of all images without labels."""
    if not splits.class_names:
        return len(part)
    return dict(zip(splits.class_names, part.counts(splits.num_classes).tolist(), strict=True))
