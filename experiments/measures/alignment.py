"""How far a student has come to see relations of classes and images as its teacher does."""

import numpy as np

from experiments.measures import sampling
from experiments.measures.subject import Subject
from rrd_jax import errors

NEIGHBOURS = 10
# Images at most, of a larger test split a sample: memory and time grow with their square.
_MOST = 10_000
_MOST_PAIRS = 1_000
_MOST_CLASSES = 200


def of(subject: Subject) -> dict[str, np.ndarray | float]:
    """Correlations of logits, and similarities of embeddings, of student and teacher.

    Returns:
      sampled: how many of the `total` test images embeddings are compared on.
      cka_linear, cka_rbf: centred kernel alignment of the embeddings (arXiv 1905.00414), in [0, 1];
        see `linear_cka` and `rbf_cka`. The latter is of at most 1 000 images.
      similarity_spearman: rank correlation of the cosine similarities of all pairs of at most 1 000
        images, in the student's and in the teacher's eyes, in [-1, 1].
      neighbour_agreement: [sampled], the share of the k nearest images, by cosine, that both have
        in common; neighbour_agreement_mean; neighbour_agreement_chance, its mean for embeddings
        that know nothing of one another; neighbours, which is k; images: [sampled] indices.
      Of networks with the same classes, as in figures of arXiv 1910.10699 and 2407.12073:
      student_correlation, teacher_correlation, correlation_difference: [c, c], between logits of
        classes, over all test images, and the student's less the teacher's; NaN for classes whose
        logit never changes. classes: [c], the labels of these, a sample where there are more
        than 200.
      correlation_gap, correlation_gap_max: mean and maximum of the differences' sizes, over all
        pairs of different classes, also those left out above.
      Values of embeddings are missing where a network reports none.

    Raises:
      InputError: the run has no teacher, or there are fewer than three images.
    """
    if subject.teacher is None:
        raise errors.InputError(
            "alignment is that of a student with its teacher, and the run has none: pass the"
            " teacher to measures.of_run"
        )
    if len(subject) < 3:
        raise errors.InputError(
            f"the test split has {len(subject)} images, but relations need three or more"
        )
    values: dict[str, np.ndarray | float] = {"total": len(subject)}
    if subject.compares:
        values |= _of_logits(subject.student.logits, subject.teacher.logits)
    student, teacher = subject.student.embedding, subject.teacher.embedding
    if student.shape[1] and teacher.shape[1]:
        values |= _of_embeddings(student, teacher)
    return values


def _of_logits(student: np.ndarray, teacher: np.ndarray) -> dict[str, np.ndarray | float]:
    ours, theirs = correlation(student), correlation(teacher)
    difference = ours - theirs
    gaps = np.abs(difference)[~np.eye(len(difference), dtype=bool)]
    gaps = gaps[np.isfinite(gaps)]
    classes = sampling.places(len(difference), _MOST_CLASSES)
    shown = np.ix_(classes, classes)
    return {
        "classes": classes.astype(np.int32),
        "student_correlation": ours[shown].astype(np.float32),
        "teacher_correlation": theirs[shown].astype(np.float32),
        "correlation_difference": difference[shown].astype(np.float32),
        "correlation_gap": float(gaps.mean()) if gaps.size else np.nan,
        "correlation_gap_max": float(gaps.max()) if gaps.size else np.nan,
    }


def _of_embeddings(student: np.ndarray, teacher: np.ndarray) -> dict[str, np.ndarray | float]:
    images = sampling.places(len(student), _MOST)
    few = sampling.places(len(student), _MOST_PAIRS)
    k = min(NEIGHBOURS, len(images) - 1)
    agreement = neighbour_agreement(student[images], teacher[images], k)
    return {
        "sampled": len(images),
        "images": images.astype(np.int32),
        "cka_linear": linear_cka(student[images], teacher[images]),
        "cka_rbf": rbf_cka(student[few], teacher[few]),
        "similarity_spearman": similarity_spearman(student[few], teacher[few]),
        "neighbours": k,
        "neighbour_agreement": agreement.astype(np.float32),
        "neighbour_agreement_mean": float(agreement.mean()),
        "neighbour_agreement_chance": k / (len(images) - 1),
    }


def correlation(logits: np.ndarray) -> np.ndarray:
    """Pearson's, between the columns of [N, C]: [C, C]; NaN where a column is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.corrcoef(logits.astype(np.float64), rowvar=False)


def linear_cka(one: np.ndarray, other: np.ndarray) -> float:
    """||Y'X||^2 / (||X'X|| ||Y'Y||) of centred columns (arXiv 1905.00414).

    1 for embeddings that differ by a rotation, a shift and a scale; NaN where one is constant.

    Args:
      one: X, [N, D].
      other: Y, [N, E].
    """
    one, other = _centred(one), _centred(other)
    cross, *own = (np.linalg.norm(a.T @ b) for a, b in ((other, one), (one, one), (other, other)))
    with np.errstate(invalid="ignore"):
        return float(cross**2 / np.prod(own))


def rbf_cka(one: np.ndarray, other: np.ndarray) -> float:
    """CKA of Gaussian kernels, each as wide as its median distance (arXiv 1905.00414).

    Args:
      one: [N, D].
      other: [N, E].
    """
    kernels = []
    for rows in (one, other):
        kernel = _gaussian(rows.astype(np.float64))
        kernels.append(_centred(_centred(kernel).T).ravel())
    with np.errstate(invalid="ignore"):
        return float(kernels[0] @ kernels[1] / np.prod([*map(np.linalg.norm, kernels)]))


def _gaussian(rows: np.ndarray) -> np.ndarray:
    from scipy.spatial import distance

    distances = distance.squareform(distance.pdist(rows, "sqeuclidean"))
    median = np.median(distances[np.triu_indices(len(rows), 1)])
    return np.exp(-distances / (2 * (median or 1)))


def _centred(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows - rows.mean(axis=0)


def neighbour_agreement(one: np.ndarray, other: np.ndarray, k: int) -> np.ndarray:
    """[N], the share of each row's k nearest rows, by cosine, that are so in both embeddings.

    Args:
      one: [N, D].
      other: [N, E].
      k: below N.
    """
    ours, theirs = (_neighbours(rows, k) for rows in (one, other))
    return (ours[:, :, None] == theirs[:, None, :]).any(axis=2).mean(axis=1)


def _neighbours(rows: np.ndarray, k: int) -> np.ndarray:
    """[N, k] indices of the nearest other rows."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(rows)
    return found.kneighbors(return_distance=False)  # without rows, each leaves itself out


def similarity_spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation of the cosine similarities of all pairs of rows; NaN where all are equal.

    Args:
      one: [N, D].
      other: [N, E].
    """
    import scipy.stats
    from sklearn.metrics.pairwise import cosine_similarity

    upper = np.triu_indices(len(one), 1)
    pairs = [cosine_similarity(rows.astype(np.float64))[upper] for rows in (one, other)]
    if any(np.ptp(values) == 0 for values in pairs):
        return np.nan
    return float(scipy.stats.spearmanr(*pairs).statistic)
