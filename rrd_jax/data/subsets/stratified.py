"""Random selections that preserve class proportions: shares, counts per class, label noise."""

import numpy as np

# Identifiers that make the random numbers of the functions independent for one seed.
_SHARE, _COUNTS, _NOISE, _VALIDATION = range(4)


def draw_share(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Returns the indices of a share of the examples, ascending, in the proportions of the classes.

    The share has round(fraction * N) examples, but at least one per class. For one seed, smaller
    shares are subsets of larger ones.

    Args:
      labels: [N], class ids.
      fraction: fraction of the examples, in (0, 1].
      seed: seed of the selection.
    """
    rng = np.random.default_rng((seed, _SHARE))
    ranks, sizes = _ranks(labels, rng), np.bincount(labels)
    order = _in_proportion(labels, ranks, rng)
    # The first example of each class comes first.
    order = order[np.argsort(ranks[order] > 0, kind="stable")]
    return np.sort(order[: max(round(fraction * len(labels)), np.count_nonzero(sizes))])


def draw_validation(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns the indices of `count` examples, ascending, in the proportions of the classes.

    For one seed, fewer examples are a subset of more. Small classes may have no example.

    Args:
      labels: [N], class ids.
      count: number of examples, 0 <= count <= N.
      seed: seed of the selection.
    """
    rng = np.random.default_rng((seed, _VALIDATION))
    return np.sort(_in_proportion(labels, _ranks(labels, rng), rng)[:count])


def draw_per_class(labels: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Returns the indices of `counts` [C] random examples per class, ascending.

    Classes with fewer examples are used completely. For one seed, the examples for smaller counts
    are a subset of those for larger counts.
    """
    ranks = _ranks(labels, np.random.default_rng((seed, _COUNTS)))
    return np.flatnonzero(ranks < counts[labels])


def tail_counts(sizes: np.ndarray, imbalance: float) -> np.ndarray:
    """Returns [C], images per class in a long tail: floor(n_0 * imbalance^(-i / (C - 1))).

    The count n_0 of the first class is the largest for which all classes have enough images. For
    the equal classes of CIFAR, n_0 is the size of a class, and the counts are those of long-tailed
    CIFAR (arXiv 1901.05555).

    Args:
      sizes: [C], available images per class.
      imbalance: ratio of the first to the last count before rounding; 1 or more.

    Examples:
      >>> tail_counts(np.full(10, 5000), 100.0).tolist()
      [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    shape = float(imbalance) ** (-np.arange(len(sizes)) / (len(sizes) - 1))
    # The tolerance makes 300 / 3 equal to 100.
    rounding = 1e-9
    first = int(np.ceil(((sizes + 1) / shape).min() * (1 - rounding))) - 1
    return np.minimum(np.floor(first * shape + rounding * first), sizes).astype(int)


def corrupt_labels(
    labels: np.ndarray, fraction: float, num_classes: int, noise: str = "symmetric", seed: int = 0
) -> np.ndarray:
    """Returns labels of which exactly round(fraction * N) are wrong, in equal shares per class.

    For one seed, the labels that are wrong at a smaller fraction are also wrong at a larger one.

    Args:
      labels: [N], class ids in 0..C-1.
      fraction: fraction of wrong labels, in [0, 1).
      num_classes: C, 2 or more.
      noise: type of noise, as in arXiv 1804.06872. "symmetric" draws one of the other C - 1 classes
        uniformly; "asymmetric" (pair flip) takes the next class, or the first after the last.
      seed: seed of the selection.
    """
    rng = np.random.default_rng((seed, _NOISE))
    order = _in_proportion(labels, _ranks(labels, rng), rng)
    steps = rng.integers(1, num_classes, len(labels))
    if noise == "asymmetric":
        steps = np.ones_like(steps)
    wrong = order[: round(fraction * len(labels))]
    changed = labels.copy()
    changed[wrong] = (labels[wrong] + steps[wrong]) % num_classes
    return changed


def _ranks(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns [N], the rank of each example in a random order of its class, from 0."""
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.bincount(labels)
    ranks = np.empty(len(labels), int)
    ranks[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks


def _in_proportion(labels: np.ndarray, ranks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns an order of the examples in which every prefix preserves the class proportions.

    The order follows the Sainte-Lague method; ties between classes are broken at random.
    """
    sizes = np.bincount(labels)
    turns = rng.permutation(len(sizes))
    return np.lexsort((turns[labels], (ranks + 0.5) / sizes[labels]))
