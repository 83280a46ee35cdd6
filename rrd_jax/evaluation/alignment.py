"""Measures of how well a student's embeddings match its teacher's, and whether they collapsed."""

from typing import NamedTuple

import numpy as np

from rrd_jax.evaluation import rows
from rrd_jax.terminal import tables

IMAGES = 1_000  # `rank_correlation` compares all pairs of at most this many images.
NEIGHBOURS = (1, 10, 20)
# An embedding below the first value is nearly constant. The second value is the least that a
# teacher must have for the comparison to mean anything.
_COLLAPSE = {"effective_rank": (1.1, 1.5), "deviation": (0.01, 0.05)}
_COLUMNS = {
    "neighbours_1": ("nearest in common", 1),
    "neighbours_10": ("10 nearest", 1),
    "neighbours_20": ("20 nearest", 1),
    "cka": ("CKA", 3),
    "rank_correlation": ("rank correlation", 3),
    "effective_rank": ("effective rank", 1),
    "deviation": ("deviation", 3),
    "loss/rrd": ("RRD's loss", 3),
    "floor/rrd": ("its floor", 3),
    "knn_10": ("10-NN top-1", 2),
    "knn_20": ("20-NN top-1", 2),
    "probe": ("probe top-1", 2),
}


def linear_cka(one: np.ndarray, other: np.ndarray) -> float:
    """Computes linear centred kernel alignment: ||Y'X||^2 / (||X'X|| ||Y'Y||), centred columns.

    In [0, 1]: 1 for embeddings that differ by a rotation, a shift and a scale; NaN where one of
    them is constant.

    Args:
      one: X, [N, D].
      other: Y, [N, E].

    References:
      arXiv 1905.00414.
    """
    pairs = ((other, one), (one, one), (other, other))
    cross, *norms = (np.linalg.norm(rows.gram(*pair, centred=True)) for pair in pairs)
    with np.errstate(invalid="ignore"):
        return float(cross**2 / np.prod(norms))


def rank_correlation(one: np.ndarray, other: np.ndarray, most: int = IMAGES) -> float:
    """Computes Spearman's correlation of the cosine similarities of all pairs of rows.

    In [-1, 1]; NaN where all similarities are equal.

    Args:
      one: [N, D].
      other: [N, E].
      most: the largest number of rows. Of more rows, a fixed random subset of this size is used.
    """
    import scipy.stats

    subset = rows.subset(len(one), most)
    upper = np.triu_indices(len(subset), 1)
    directions = (rows.unit(embeddings[subset].astype(np.float64)) for embeddings in (one, other))
    similarities = [(units @ units.T)[upper] for units in directions]
    if any(np.ptp(values) == 0 for values in similarities):
        return float("nan")
    return float(scipy.stats.spearmanr(*similarities).statistic)


def effective_rank(embeddings: np.ndarray) -> float:
    """Computes the effective rank: exp of the entropy of the normalised singular values.

        p_k = s_k / sum_j s_j,  rank = exp(- sum_k p_k ln p_k)

    From 1, for embeddings that all have one direction, to min(N, D). As in arXiv 2210.02885,
    columns are not centred, so that a constant embedding has rank 1. NaN where all are zero.

    Args:
      embeddings: [N, D].

    References:
      Roy and Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007.
      arXiv 2210.02885.
    """
    count, width = embeddings.shape
    if width > count:  # The transpose has the same singular values and a smaller Gram matrix.
        embeddings = embeddings.T
    squares = np.linalg.eigvalsh(rows.gram(embeddings, embeddings))
    noise = max(count, width) * np.finfo(np.float64).eps * squares.max()
    values = np.sqrt(squares[squares > noise])
    if not values.size:
        return float("nan")
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def deviation(embeddings: np.ndarray) -> float:
    """Computes the mean standard deviation of the dimensions of unit embeddings, times sqrt(D).

    0 for equal embeddings, 1 for embeddings that are uniform on the sphere: the measure of collapse
    of arXiv 2011.10566, made independent of the width.

    Args:
      embeddings: [N, D].
    """
    count, width = embeddings.shape
    mean, square = np.zeros(width), np.zeros(width)
    for part in rows.chunks(count, width):
        mean += rows.unit(embeddings[part].astype(np.float64)).sum(axis=0) / count
    for part in rows.chunks(count, width):
        directions = rows.unit(embeddings[part].astype(np.float64))
        square += ((directions - mean) ** 2).sum(axis=0) / count
    return float(np.sqrt(square).mean() * np.sqrt(width))


class Reference(NamedTuple):
    """A teacher's embeddings of held-out images, and what is computed from them once.

    Attributes:
      embeddings: [N, D].
      nearest: [N, k] indices of the nearest other images of each image.
      spread: `effective_rank` and `deviation`, by name.
    """

    embeddings: np.ndarray
    nearest: np.ndarray
    spread: dict[str, float]


def reference(embeddings: np.ndarray) -> Reference:
    """Returns the Reference of a teacher's embeddings [N, D] of three images or more."""
    return Reference(embeddings, _nearest(embeddings), _spread(embeddings))


def compare(embeddings: np.ndarray, teacher: Reference) -> dict[str, float]:
    """Compares a student's embeddings with its teacher's.

    Args:
      embeddings: [N, E], of the same images as the teacher's.
      teacher: the teacher's embeddings.

    Returns:
      neighbours_1, neighbours_10, neighbours_20: mean share of the k nearest images, by cosine,
        that are among the teacher's k nearest too, in per cent; 100 k / (N - 1) by chance. Values
        of k for which there are too few images are left out.
      cka: `linear_cka`.
      rank_correlation: `rank_correlation`.
      effective_rank, deviation: the student's.
      Undefined figures, such as the correlation of a constant embedding, are left out.
    """
    from rrd_jax.evaluation import knn  # Imports JAX.

    nearest = _nearest(embeddings)
    figures = {
        f"neighbours_{k}": 100.0
        * float(knn.in_common(nearest[:, :k], teacher.nearest[:, :k]).mean())
        for k in NEIGHBOURS
        if k <= nearest.shape[1]
    }
    figures["cka"] = linear_cka(embeddings, teacher.embeddings)
    figures["rank_correlation"] = rank_correlation(embeddings, teacher.embeddings)
    figures |= _spread(embeddings)
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def describe_collapse(figures: dict[str, float], teacher: Reference) -> str:
    """Returns a message if a student's embeddings are nearly constant, else "".

    Args:
      figures: of `compare`.
      teacher: the teacher's embeddings; "" is returned if these are nearly constant too.
    """
    collapsed = [
        f"{name.replace('_', ' ')} {figures.get(name, 0):.3g} (the teacher's {there:.3g})"
        for name, (least, sound) in _COLLAPSE.items()
        if figures.get(name, 0) < least and (there := teacher.spread[name]) > sound
    ]
    return f"the student's embeddings have collapsed: {', '.join(collapsed)}" if collapsed else ""


def _nearest(embeddings: np.ndarray) -> np.ndarray:
    from rrd_jax.evaluation import knn  # Imports JAX, which readers of recorded figures lack.

    return knn.nearest(embeddings, None, min(max(NEIGHBOURS), len(embeddings) - 1))[0]


def _spread(embeddings: np.ndarray) -> dict[str, float]:
    return {"effective_rank": effective_rank(embeddings), "deviation": deviation(embeddings)}


def table(runs: dict[str, dict[str, float]]) -> tables.Table:
    """Returns header and rows: each run's figures, between a random student's and the teacher's.

    Args:
      runs: by the label of the run, its last figures: those of `compare`, votes and a probe, with
        the other networks' figures as random_cka, teacher_probe and so on.
    """
    figures: dict[str, dict[str, float]] = {}
    for label, figures_of_run in runs.items():
        figures[label] = figures_of_run
        for network in ("random", "teacher"):
            names = {name: f"{network}_{name}" for name in _COLUMNS}
            figures[network] = {
                name: figures_of_run[key] for name, key in names.items() if key in figures_of_run
            }
    columns = [name for name in _COLUMNS if any(name in row for row in figures.values())]
    if "knn_20" in columns:  # 10-NN stands in for 20-NN where there are fewer than 20 images.
        columns.remove("knn_10")
    cells = [
        (
            "random weights" if label == "random" else label,
            *(
                f"{figures[label][name]:.{_COLUMNS[name][1]}f}" if name in figures[label] else "-"
                for name in columns
            ),
        )
        for label in ("random", *runs, "teacher")
        if figures[label]
    ]
    return ("embeddings of", *(_COLUMNS[name][0] for name in columns)), cells
