"""What is watched of a student on held-out images, by name, beside its teacher."""

from typing import NamedTuple

import numpy as np

from rrd_jax.evaluation import alignment, neighbours, spread

NEIGHBOURS = (1, 10, 20)
# Below these an embedding is as good as constant; a teacher whose own are no larger says nothing.
_FLAT = {"effective_rank": (1.1, 1.5), "deviation": (0.01, 0.05)}


class Teacher(NamedTuple):
    """What is computed of a teacher once.

    Attributes:
      embeddings: [N, D], of held-out images.
      nearest: [N, k] indices of each one's nearest others.
      spread: its effective rank and deviation, by name.
    """

    embeddings: np.ndarray
    nearest: np.ndarray
    spread: dict[str, float]


def of_teacher(embeddings: np.ndarray) -> Teacher:
    """What students are compared with.

    Args:
      embeddings: [N, D] of three images or more.
    """
    return Teacher(embeddings, _nearest(embeddings), _spread(embeddings))


def of(embeddings: np.ndarray, teacher: Teacher) -> dict[str, float]:
    """A student's figures.

    Args:
      embeddings: [N, E], of the teacher's images.
      teacher: of `of_teacher`.

    Returns:
      neighbours_1, neighbours_10, neighbours_20: mean share of the k nearest images, by cosine,
        that are so for the teacher too, in per cent; by chance it is 100 k / (N - 1). Without those
        of which there are too few images.
      cka: `alignment.linear_cka`.
      rank_correlation: `alignment.rank_correlation`.
      effective_rank, deviation: as `spread` has them, of the student.
      A figure that is not defined is left out: a constant embedding has no correlation.
    """
    nearest = _nearest(embeddings)
    figures = {
        f"neighbours_{k}": 100.0
        * float(neighbours.in_common(nearest[:, :k], teacher.nearest[:, :k]).mean())
        for k in NEIGHBOURS
        if k <= nearest.shape[1]
    }
    figures["cka"] = alignment.linear_cka(embeddings, teacher.embeddings)
    figures["rank_correlation"] = alignment.rank_correlation(embeddings, teacher.embeddings)
    figures |= _spread(embeddings)
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def collapse(figures: dict[str, float], teacher: Teacher) -> str:
    """That a student's embeddings are as good as constant, where its teacher's are not; else "".

    Args:
      figures: of `of`.
      teacher: of `of_teacher`.
    """
    flat = [
        f"{name.replace('_', ' ')} {figures.get(name, 0):.3g} (the teacher's {there:.3g})"
        for name, (least, sound) in _FLAT.items()
        if figures.get(name, 0) < least and (there := teacher.spread[name]) > sound
    ]
    return f"the student's embeddings have collapsed: {', '.join(flat)}" if flat else ""


def _nearest(embeddings: np.ndarray) -> np.ndarray:
    return neighbours.nearest(embeddings, None, min(max(NEIGHBOURS), len(embeddings) - 1))[0]


def _spread(embeddings: np.ndarray) -> dict[str, float]:
    return {
        "effective_rank": spread.effective_rank(embeddings),
        "deviation": spread.deviation(embeddings),
    }
