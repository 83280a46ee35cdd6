"""Alignment of a student with its teacher: correlations of logits, similarities of embeddings."""

import numpy as np

from experiments.measures.outputs import RunOutputs
from rrd_jax import errors
from rrd_jax.evaluation import alignment, rows

NEIGHBORS = 10
# A larger test split is sampled, because memory and time are quadratic in the number of images.
_MAX_IMAGES = 10_000
_MAX_PAIR_IMAGES = 1_000
_MAX_CLASSES = 200


def compute(outputs: RunOutputs) -> dict[str, np.ndarray | float]:
    """Compares the logits and the embeddings of student and teacher.

    Returns:
      total: number of test images.
      sampled: number of test images on which embeddings are compared.
      cka_linear: centered kernel alignment of the embeddings (arXiv 1905.00414), in [0, 1]; see
        `rrd_jax.evaluation.alignment`.
      similarity_spearman: rank correlation of the cosine similarities of all pairs of at most 1 000
        images, between student and teacher, in [-1, 1].
      neighbour_agreement: [sampled], the share of the k nearest images by cosine similarity that
        student and teacher have in common.
      neighbour_agreement_mean: the mean of neighbour_agreement.
      neighbour_agreement_chance: the expected mean for independent embeddings.
      neighbours: k.
      images: [sampled], indices of the compared images.
      Only for networks with the same classes, as in figures of arXiv 1910.10699 and 2407.12073:
      student_correlation, teacher_correlation: [c, c], correlations between the logits of classes
        over all test images; NaN for classes with a constant logit.
      correlation_difference: [c, c], the student's correlations minus the teacher's.
      classes: [c], the labels of the classes; a sample if there are more than 200 classes.
      correlation_gap: mean absolute difference over all pairs of different classes, including
        classes that are not sampled.
      The values of embeddings are absent if a network returns no embedding.

    Raises:
      InputError: the run has no teacher, or there are fewer than three images.
    """
    if outputs.teacher is None:
        raise errors.InputError(
            "alignment compares a student with its teacher, but the run has no teacher; pass"
            " teacher= to measures.run_outputs"
        )
    if len(outputs) < 3:
        raise errors.InputError(
            f"the test split has {len(outputs)} images, but alignment needs at least 3; use more"
            " images"
        )
    values: dict[str, np.ndarray | float] = {"total": len(outputs)}
    if outputs.same_classes:
        values |= _compare_logits(outputs.student.logits, outputs.teacher.logits)
    student, teacher = outputs.student.embedding, outputs.teacher.embedding
    if student.shape[1] and teacher.shape[1]:
        values |= _compare_embeddings(student, teacher)
    return values


def _compare_logits(student: np.ndarray, teacher: np.ndarray) -> dict[str, np.ndarray | float]:
    student_values, teacher_values = correlation(student), correlation(teacher)
    difference = student_values - teacher_values
    gaps = np.abs(difference)[~np.eye(len(difference), dtype=bool)]
    gaps = gaps[np.isfinite(gaps)]
    classes = rows.subset(len(difference), _MAX_CLASSES)
    selection = np.ix_(classes, classes)
    return {
        "classes": classes.astype(np.int32),
        "student_correlation": student_values[selection].astype(np.float32),
        "teacher_correlation": teacher_values[selection].astype(np.float32),
        "correlation_difference": difference[selection].astype(np.float32),
        "correlation_gap": float(gaps.mean()) if gaps.size else np.nan,
    }


def _compare_embeddings(student: np.ndarray, teacher: np.ndarray) -> dict[str, np.ndarray | float]:
    # The module imports JAX, which `measures.read` does not need.
    from rrd_jax.evaluation import knn

    images = rows.subset(len(student), _MAX_IMAGES)
    pair_images = rows.subset(len(student), _MAX_PAIR_IMAGES)
    k = min(NEIGHBORS, len(images) - 1)
    agreement = knn.agreement(student[images], teacher[images], k)
    return {
        "sampled": len(images),
        "images": images.astype(np.int32),
        "cka_linear": alignment.linear_cka(student[images], teacher[images]),
        "similarity_spearman": alignment.rank_correlation(
            student[pair_images], teacher[pair_images]
        ),
        "neighbours": k,
        "neighbour_agreement": agreement.astype(np.float32),
        "neighbour_agreement_mean": float(agreement.mean()),
        "neighbour_agreement_chance": k / (len(images) - 1),
    }


def correlation(logits: np.ndarray) -> np.ndarray:
    """Returns Pearson correlations [C, C] of the columns of [N, C]; NaN for constant columns."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.corrcoef(logits.astype(np.float64), rowvar=False)
