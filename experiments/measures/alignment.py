"""Alignment of a student with its teacher: correlations of logits, similarity of embeddings."""

import numpy as np

from experiments.measures.outputs import RunOutputs
from rrd_jax import errors
from rrd_jax.evaluation import alignment, rows

NEIGHBOURS = 10
# A larger test split is sampled: memory and time grow with the square of the images.
_MOST = 10_000
_MOST_PAIRS = 1_000
_MOST_CLASSES = 200


def compute(outputs: RunOutputs) -> dict[str, np.ndarray | float]:
    """Compares the logits and the embeddings of student and teacher.

    Returns:
      sampled: number of test images, of `total`, on which embeddings are compared.
      cka_linear: centred kernel alignment of the embeddings (arXiv 1905.00414), in [0, 1]; see
        `rrd_jax.evaluation.alignment`.
      similarity_spearman: rank correlation of the cosine similarities of all pairs of at most 1 000
        images, between student and teacher, in [-1, 1].
      neighbour_agreement: [sampled], the share of the k nearest images, by cosine, that both have
        in common; neighbour_agreement_mean; neighbour_agreement_chance, its mean for independent
        embeddings; neighbours, which is k; images: [sampled] indices.
      For networks with the same classes, as in figures of arXiv 1910.10699 and 2407.12073:
      student_correlation, teacher_correlation, correlation_difference: [c, c], between logits of
        classes, over all test images, and the student's less the teacher's; NaN for classes whose
        logit is constant. classes: [c], the labels of these, a sample of more than 200.
      correlation_gap: mean of the absolute differences over all pairs of different classes, sampled
        or not.
      Values of embeddings are missing if a network reports none.

    Raises:
      InputError: the run has no teacher, or there are fewer than three images.
    """
    if outputs.teacher is None:
        raise errors.InputError(
            "alignment compares a student with its teacher, and the run has none: pass the"
            " teacher to measures.run_outputs"
        )
    if len(outputs) < 3:
        raise errors.InputError(
            f"the test split has {len(outputs)} images, but relations need three or more"
        )
    values: dict[str, np.ndarray | float] = {"total": len(outputs)}
    if outputs.same_classes:
        values |= _compare_logits(outputs.student.logits, outputs.teacher.logits)
    student, teacher = outputs.student.embedding, outputs.teacher.embedding
    if student.shape[1] and teacher.shape[1]:
        values |= _compare_embeddings(student, teacher)
    return values


def _compare_logits(student: np.ndarray, teacher: np.ndarray) -> dict[str, np.ndarray | float]:
    ours, theirs = correlation(student), correlation(teacher)
    difference = ours - theirs
    gaps = np.abs(difference)[~np.eye(len(difference), dtype=bool)]
    gaps = gaps[np.isfinite(gaps)]
    classes = rows.subset(len(difference), _MOST_CLASSES)
    shown = np.ix_(classes, classes)
    return {
        "classes": classes.astype(np.int32),
        "student_correlation": ours[shown].astype(np.float32),
        "teacher_correlation": theirs[shown].astype(np.float32),
        "correlation_difference": difference[shown].astype(np.float32),
        "correlation_gap": float(gaps.mean()) if gaps.size else np.nan,
    }


def _compare_embeddings(student: np.ndarray, teacher: np.ndarray) -> dict[str, np.ndarray | float]:
    # It imports JAX, which reading stored measures does not need.
    from rrd_jax.evaluation import knn

    images = rows.subset(len(student), _MOST)
    few = rows.subset(len(student), _MOST_PAIRS)
    k = min(NEIGHBOURS, len(images) - 1)
    agreement = knn.agreement(student[images], teacher[images], k)
    return {
        "sampled": len(images),
        "images": images.astype(np.int32),
        "cka_linear": alignment.linear_cka(student[images], teacher[images]),
        "similarity_spearman": alignment.rank_correlation(student[few], teacher[few]),
        "neighbours": k,
        "neighbour_agreement": agreement.astype(np.float32),
        "neighbour_agreement_mean": float(agreement.mean()),
        "neighbour_agreement_chance": k / (len(images) - 1),
    }


def correlation(logits: np.ndarray) -> np.ndarray:
    """Returns Pearson's correlations [C, C] of the columns of [N, C]; NaN for constant ones."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.corrcoef(logits.astype(np.float64), rowvar=False)
