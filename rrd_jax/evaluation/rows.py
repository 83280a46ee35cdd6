"""Helpers that process embeddings in chunks of rows."""

from collections.abc import Iterator

import numpy as np

# Maximum number of float64 elements in memory at once.
_MAX_ELEMENTS = 2**22


def subset(total: int, max_rows: int) -> np.ndarray:
    """Returns the indices of a fixed random subset of at most `max_rows` rows, ascending."""
    if total <= max_rows:
        return np.arange(total)
    return np.sort(np.random.default_rng(0).choice(total, max_rows, replace=False))


def unit(rows: np.ndarray) -> np.ndarray:
    """Scales rows [N, D] to length 1 in their precision; rows of zeros are unchanged."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def chunks(count: int, width: int) -> Iterator[slice]:
    """Yields slices of `count` rows of length `width` that fit into memory as float64."""
    size = max(1, _MAX_ELEMENTS // max(width, 1))
    return (slice(first, first + size) for first in range(0, count, size))


def gram(x: np.ndarray, y: np.ndarray, *, centered: bool = False) -> np.ndarray:
    """Computes X'Y [D, E] in float64, in chunks of rows.

    Args:
      x: [N, D], the rows X.
      y: [N, E], the rows Y.
      centered: whether to subtract the mean of each column first.
    """
    means = [rows.mean(axis=0, dtype=np.float64) if centered else 0.0 for rows in (x, y)]
    total = np.zeros((x.shape[1], y.shape[1]))
    for part in chunks(len(x), max(total.shape)):
        x_part, y_part = (
            rows[part].astype(np.float64) - mean for rows, mean in zip((x, y), means, strict=True)
        )
        total += x_part.T @ y_part
    return total
