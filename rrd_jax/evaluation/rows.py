"""Helpers that work on a few rows of embeddings at a time."""

from collections.abc import Iterator

import numpy as np

_NUMBERS = 2**22  # The most float64 numbers that are in memory at once.


def subset(total: int, most: int) -> np.ndarray:
    """Returns ascending indices of at most `most` of `total` rows, the same ones at every call."""
    if total <= most:
        return np.arange(total)
    return np.sort(np.random.default_rng(0).choice(total, most, replace=False))


def unit(rows: np.ndarray) -> np.ndarray:
    """Scales rows [N, D] to length 1, in their own precision; zeros stay zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def chunks(count: int, width: int) -> Iterator[slice]:
    """Splits `count` rows of a width into slices that fit into memory as float64."""
    size = max(1, _NUMBERS // max(width, 1))
    return (slice(first, first + size) for first in range(0, count, size))


def gram(one: np.ndarray, other: np.ndarray, *, centred: bool = False) -> np.ndarray:
    """Computes X'Y [D, E] in float64, a few rows at a time.

    Args:
      one: X, [N, D].
      other: Y, [N, E].
      centred: whether the mean of each column is subtracted first.
    """
    means = [rows.mean(axis=0, dtype=np.float64) if centred else 0.0 for rows in (one, other)]
    total = np.zeros((one.shape[1], other.shape[1]))
    for part in chunks(len(one), max(total.shape)):
        ours, theirs = (
            rows[part].astype(np.float64) - mean
            for rows, mean in zip((one, other), means, strict=True)
        )
        total += ours.T @ theirs
    return total
