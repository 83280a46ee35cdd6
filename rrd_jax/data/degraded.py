"""Training data made worse on purpose: a share of the images, a long tail, wrong labels.

All of it is a function of the labels and of a seed: each process, and each start, sees the same.
"""

import dataclasses
import hashlib
import operator
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from rrd_jax import console, errors, sanity
from rrd_jax.data.opened import Opened
from rrd_jax.data.source import Source
from rrd_jax.data.summary import Summary

_MANY = 100_000  # labels that are read for so long that a line says so
# What is drawn, so that no two draws of a seed are the same.
_SHARE, _TAIL, _NOISE = range(3)
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


def degrade(source: Source, splits: Opened) -> Opened:
    """What a source makes worse of the training split; the test split stays as it is.

    First the share is taken, of it the long tail, and of that the labels are made wrong. Random
    images that stand in for the data (`mock_examples`) are so few that all are kept.

    Raises:
      InputError: too few images for the long tail, or a label that is none of the classes.
    """
    if source.mock_examples:
        source = dataclasses.replace(source, share=1.0, imbalance=1.0)
    if not source.is_degraded:
        return splits
    labels = _labels(splits.train)
    sanity.check_labels(labels, splits.num_classes, "training")
    places, seed = np.arange(len(labels)), source.noise_seed
    lines, warnings = [], []
    if source.share < 1:
        places = share(labels, source.share, seed)
        lines.append(_about_share(labels[places], len(labels)))
    if source.imbalance > 1:
        before = len(places)
        places = places[_tail(source, splits, labels[places])]
        lines.append(_about_tail(source, splits, labels[places], before))
        warnings += _doubt_about_tail(source, labels[places])
    seen = labels[places]
    if source.label_noise:
        seen = noisy(seen, source.label_noise, splits.num_classes, source.noise, seed)
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


def share(labels: np.ndarray, part: float, seed: int) -> np.ndarray:
    """Places of a share of the examples, ascending; it has all classes, in their proportions.

    round(part * N) of them, or one of each class where that is more. A smaller share of the same
    seed is a part of a larger one.

    Args:
      labels: [N].
      part: of the examples, in (0, 1].
      seed: of the choice.
    """
    rng = np.random.default_rng((seed, _SHARE))
    ranks, sizes = _ranks(labels, rng), np.bincount(labels)
    order = _in_proportion(labels, ranks, rng)
    order = order[np.argsort(ranks[order] > 0, kind="stable")]  # the first of each class
    return np.sort(order[: max(round(part * len(labels)), np.count_nonzero(sizes))])


def long_tail(labels: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Places of `counts` [C] random examples of each class, ascending."""
    ranks = _ranks(labels, np.random.default_rng((seed, _TAIL)))
    return np.flatnonzero(ranks < counts[labels])


def tail_counts(sizes: np.ndarray, imbalance: float) -> np.ndarray:
    """[C] images of each class in a long tail: floor(n_0 * imbalance^(-i / (C - 1))).

    n_0, of the first class, is as large as all classes have images for. Of CIFAR's equal classes
    that is all of them, and the counts are those of the long-tailed CIFARs (arXiv 1901.05555).

    Args:
      sizes: [C] images that there are of each class.
      imbalance: the first class's images over the last one's, before rounding; 1 or more.

    Examples:
      >>> tail_counts(np.full(10, 5000), 100.0).tolist()
      [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    shape = float(imbalance) ** (-np.arange(len(sizes)) / (len(sizes) - 1))
    rounding = 1e-9  # so that 300 / 3 is 100
    first = int(np.ceil(((sizes + 1) / shape).min() * (1 - rounding))) - 1
    return np.minimum(np.floor(first * shape + rounding * first), sizes).astype(int)


def noisy(
    labels: np.ndarray, part: float, num_classes: int, noise: str = "symmetric", seed: int = 0
) -> np.ndarray:
    """Labels of which exactly round(part * N) are wrong, in each class the same share of them.

    With a larger part of the same seed the same labels are wrong, and others.

    Args:
      labels: [N], in 0..C-1.
      part: that is wrong, in [0, 1).
      num_classes: C, 2 or more.
      noise: "symmetric" for any of the C - 1 other classes, each as likely (arXiv 1609.03683);
        "asymmetric" for the next class, the first one after the last: the pair flip of arXiv
        1804.06872.
      seed: of the choice.
    """
    rng = np.random.default_rng((seed, _NOISE))
    order = _in_proportion(labels, _ranks(labels, rng), rng)
    steps = rng.integers(1, num_classes, len(labels))
    if noise == "asymmetric":
        steps = np.ones_like(steps)
    wrong = order[: round(part * len(labels))]
    changed = labels.copy()
    changed[wrong] = (labels[wrong] + steps[wrong]) % num_classes
    return changed


def _ranks(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[N] places of the examples in a random order of their class, from 0."""
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.bincount(labels)
    ranks = np.empty(len(labels), int)
    ranks[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks


def _in_proportion(labels: np.ndarray, ranks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An order of the examples whose every beginning has the classes in their proportions.

    That is how Sainte-Lague's method gives parties their seats. Which of equal classes comes first
    is random.
    """
    sizes = np.bincount(labels)
    turns = rng.permutation(len(sizes))
    return np.lexsort((turns[labels], (ranks + 0.5) / sizes[labels]))


def _labels(examples: Sequence[dict[str, Any]]) -> np.ndarray:
    """[N] all labels of a split."""
    listed = getattr(examples, "labels", None)
    if listed is None:
        if len(examples) > _MANY:
            console.say(f"all {len(examples):,} training examples are read once, for their labels")
        listed = [examples[i]["label"] for i in range(len(examples))]
    return np.asarray(listed, int)


def _tail(source: Source, splits: Opened, labels: np.ndarray) -> np.ndarray:
    sizes = np.bincount(labels, minlength=splits.num_classes)
    if not sizes.all():
        name = _name(splits, int(np.argmin(sizes)))
        raise errors.InputError(
            f"data.imbalance is {source.imbalance:g}, but there are no training images of {name}:"
            " a long tail needs some of each class"
        )
    counts = tail_counts(sizes, source.imbalance)
    if not counts.all():
        last = _name(splits, splits.num_classes - 1)
        raise errors.InputError(
            f"data.imbalance is {source.imbalance:g}, but with {counts[0]:,} training images of"
            f" {_name(splits, 0)} there would be none of {last}: at most {counts[0]:,} leaves one"
        )
    return long_tail(labels, counts, source.noise_seed)


def _name(splits: Opened, label: int) -> str:
    names = splits.class_names
    return f"class {label} ('{errors.printable(names[label])}')" if names else f"class {label}"


def _about_share(kept: np.ndarray, total: int) -> str:
    sizes = np.bincount(kept)
    low, high = sizes[sizes > 0].min(), sizes.max()
    spread = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"share: {len(kept):,} of {total:,} training images are used, {spread} of a class"


def _about_tail(source: Source, splits: Opened, kept: np.ndarray, before: int) -> str:
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
    if source.imbalance > 1:
        parts.append(f"imbalance {source.imbalance:g}")
    if source.label_noise:
        parts.append(f"{source.noise} label_noise {source.label_noise:g}")
    return ", ".join([*parts, f"noise_seed {source.noise_seed}"])


def _digest(train: Degraded) -> str:
    arrays = (train.places, train.labels)
    content = b"".join(array.astype("<i8").tobytes() for array in arrays)
    return hashlib.sha256(content).hexdigest()[:8]


def _figures(source: Source, splits: Opened, train: Degraded) -> dict[str, Any]:
    """What was made worse, for data.json."""
    counts = train.counts(splits.num_classes).tolist()
    about = {
        "share": source.share,
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
