"""Choices of images and labels from all classes: a share, so many of each, labels made wrong."""

import numpy as np

# What is drawn, so that no two draws of a seed are the same.
_SHARE, _COUNTS, _NOISE = range(3)


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


def of_each_class(labels: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Places of `counts` [C] random examples of each class, ascending; all where it has fewer.

    Smaller counts of the same seed are a part of larger ones.
    """
    ranks = _ranks(labels, np.random.default_rng((seed, _COUNTS)))
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
      noise: as arXiv 1804.06872 has them, "symmetric" for any of the C - 1 other classes, each as
        likely; "asymmetric" for the next class, the first one after the last: its pair flip.
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
