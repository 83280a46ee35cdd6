"""Metrics of the similarity between a student's and a teacher's embeddings, and of collapse."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rrd_jax.evaluation import rows
from rrd_jax.terminal import tables

# `rank_correlation` compares all pairs of at most this many images.
MAX_IMAGES = 1_000
NEIGHBOURS = (1, 10, 20)
# An embedding below the first value is nearly constant. The comparison is only meaningful if the
# teacher's embedding is above the second value.
_COLLAPSE = {"effective_rank": (1.1, 1.5), "deviation": (0.01, 0.05)}
# Metrics that depend on both networks.
_PAIRED = ("neighbours_1", "neighbours_10", "neighbours_20", "cka", "rank_correlation")
_COLUMNS = {
    "neighbours_1": ("shared 1-NN", 1),
    "neighbours_10": ("shared 10-NN", 1),
    "neighbours_20": ("shared 20-NN", 1),
    "cka": ("CKA", 3),
    "rank_correlation": ("rank correlation", 3),
    "effective_rank": ("effective rank", 1),
    "deviation": ("deviation", 3),
    "loss/rrd": ("RRD's loss", 3),
    "floor/rrd": ("floor", 3),
    "patch_neighbours_10": ("shared 10-NN of patches", 1),
    "patch_cka": ("CKA of patches", 3),
    "miou": ("probe mIoU", 2),
    "knn_10": ("10-NN top-1", 2),
    "knn_20": ("20-NN top-1", 2),
    "probe": ("probe top-1", 2),
}


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Computes the linear centered kernel alignment of two embeddings, in [0, 1].

        CKA = ||Y'X||^2 / (||X'X|| ||Y'Y||) for centered columns

    The result is 1 for embeddings that differ by a rotation, a shift and a scale, and NaN if an
    embedding is constant.

    Args:
      x: [N, D], embeddings X.
      y: [N, E], embeddings Y of the same images.

    References:
      arXiv 1905.00414.
    """
    pairs = ((y, x), (x, x), (y, y))
    cross, *norms = (np.linalg.norm(rows.gram(*pair, centered=True)) for pair in pairs)
    with np.errstate(invalid="ignore"):
        return float(cross**2 / np.prod(norms))


def rank_correlation(x: np.ndarray, y: np.ndarray, max_rows: int = MAX_IMAGES) -> float:
    """Computes Spearman's correlation of the cosine similarities of all pairs of rows, in [-1, 1].

    The result is NaN if all similarities of an embedding are equal.

    Args:
      x: [N, D].
      y: [N, E].
      max_rows: maximum number of rows. If N is larger, a fixed random subset of the rows is used.
    """
    import scipy.stats

    subset = rows.subset(len(x), max_rows)
    upper = np.triu_indices(len(subset), 1)
    directions = (rows.unit(embeddings[subset].astype(np.float64)) for embeddings in (x, y))
    similarities = [(units @ units.T)[upper] for units in directions]
    if any(np.ptp(values) == 0 for values in similarities):
        return float("nan")
    return float(scipy.stats.spearmanr(*similarities).statistic)


def effective_rank(embeddings: np.ndarray) -> float:
    """Computes the effective rank: exp of the entropy of the normalized singular values.

        p_k = s_k / sum_j s_j,  rank = exp(- sum_k p_k ln p_k)

    The result is between 1, if all embeddings have the same direction, and min(N, D). As in arXiv
    2210.02885, columns are not centered, so that a constant embedding has rank 1. The result is NaN
    if all embeddings are zero.

    Args:
      embeddings: [N, D].

    References:
      Roy and Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007.
      arXiv 2210.02885.
    """
    count, width = embeddings.shape
    # The transpose has the same singular values and a smaller Gram matrix.
    if width > count:
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

    The result is 0 for equal embeddings and 1 for embeddings that are uniform on the sphere. It is
    the collapse metric of arXiv 2011.10566, made independent of the width.

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
    """A teacher's embeddings of held-out images, with metrics that are computed once.

    Attributes:
      embeddings: [N, D].
      nearest: [N, k], indices of the k other images nearest to each image, nearest first.
      spread: values of `effective_rank` and `deviation`, by name.
    """

    embeddings: np.ndarray
    nearest: np.ndarray
    spread: dict[str, float]


def reference(embeddings: np.ndarray) -> Reference:
    """Computes the Reference for a teacher's embeddings [N, D] of at least three images."""
    return Reference(embeddings, _nearest(embeddings), _spread(embeddings))


def compare(embeddings: np.ndarray, teacher: Reference) -> dict[str, float]:
    """Compares a student's embeddings with its teacher's.

    Args:
      embeddings: [N, E], the student's embeddings of the teacher's images.
      teacher: the reference for the teacher's embeddings.

    Returns:
      neighbours_1, neighbours_10, neighbours_20: mean percentage of the student's k nearest images,
        by cosine, that are among the teacher's k nearest; 100 k / (N - 1) by chance. Values of k
        for which there are too few images are omitted.
      cka: `linear_cka`.
      rank_correlation: `rank_correlation`.
      effective_rank, deviation: values for the student.
      Undefined metrics, such as the correlation of a constant embedding, are omitted.
    """
    # The import is deferred, because knn imports JAX.
    from rrd_jax.evaluation import knn

    nearest = _nearest(embeddings)
    metrics = {
        f"neighbours_{k}": 100.0
        * float(knn.in_common(nearest[:, :k], teacher.nearest[:, :k]).mean())
        for k in NEIGHBOURS
        if k <= nearest.shape[1]
    }
    metrics["cka"] = linear_cka(embeddings, teacher.embeddings)
    metrics["rank_correlation"] = rank_correlation(embeddings, teacher.embeddings)
    metrics |= _spread(embeddings)
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def by_teacher(
    teachers: Sequence[Any], compare: Callable[[Any], dict[str, float]]
) -> dict[str, float]:
    """Returns the metrics of a pair of networks for each of several teachers; {} for one.

    Args:
      teachers: the teachers.
      compare: function from a teacher to the metrics of `compare`, or of `patches.compare`.

    Returns:
      Metrics such as "cka[0]", for teacher 0.
    """
    return {
        f"{name}[{i}]": value
        for i, teacher in enumerate(teachers if len(teachers) > 1 else ())
        for name, value in compare(teacher).items()
        if name.removeprefix("patch_") in _PAIRED
    }


def describe_collapse(metrics: dict[str, float], teacher: Reference) -> str:
    """Returns a message if a student's embeddings are nearly constant, otherwise "".

    Args:
      metrics: result of `compare`.
      teacher: the reference for the teacher's embeddings. If these are nearly constant too, the
        result is "".
    """
    collapsed = [
        f"{name.replace('_', ' ')} {metrics.get(name, 0):.3g} (teacher {teacher.spread[name]:.3g})"
        for name, (student_limit, teacher_limit) in _COLLAPSE.items()
        if metrics.get(name, 0) < student_limit and teacher.spread[name] > teacher_limit
    ]
    return f"the student's embeddings have collapsed: {', '.join(collapsed)}" if collapsed else ""


def _nearest(embeddings: np.ndarray) -> np.ndarray:
    # The import is deferred, because knn imports JAX, and programs that only read recorded metrics
    # run without JAX.
    from rrd_jax.evaluation import knn

    return knn.nearest(embeddings, None, min(max(NEIGHBOURS), len(embeddings) - 1))[0]


def _spread(embeddings: np.ndarray) -> dict[str, float]:
    return {"effective_rank": effective_rank(embeddings), "deviation": deviation(embeddings)}


def table(runs: dict[str, dict[str, float]]) -> tables.Table:
    """Returns a table with a row for each run, between a random student and the teacher.

    With several teachers, each run also has a row for its comparison with each teacher.

    Args:
      runs: the last metrics of each run, by its label: the results of `compare`, of votes and of a
        probe. Metrics of the other networks have prefixes, such as random_cka or teacher_probe.

    Returns:
      (header, rows).
    """
    metrics: dict[str, dict[str, float]] = {}
    for label, run_metrics in runs.items():
        metrics[label] = run_metrics
        for key, value in run_metrics.items():
            if numbered := re.fullmatch(r"(.*)\[(\d+)\]", key):
                row = metrics.setdefault(f"{label}, teacher {int(numbered[2]) + 1}", {})
                row[numbered[1]] = value
        for network in ("random", "teacher"):
            names = {name: f"{network}_{name}" for name in _COLUMNS}
            metrics[network] = {
                name: run_metrics[key] for name, key in names.items() if key in run_metrics
            }
    columns = [name for name in _COLUMNS if any(name in row for row in metrics.values())]
    # The table shows the votes of 10 images only if there are fewer than 20 images.
    if "knn_20" in columns:
        columns.remove("knn_10")
    cells = [
        (
            "random weights" if label == "random" else label,
            *(
                f"{metrics[label][name]:.{_COLUMNS[name][1]}f}" if name in metrics[label] else "-"
                for name in columns
            ),
        )
        for label in ("random", *(n for n in metrics if n not in ("random", "teacher")), "teacher")
        if metrics[label]
    ]
    return ("embeddings of", *(_COLUMNS[name][0] for name in columns)), cells
