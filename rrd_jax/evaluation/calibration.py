"""Calibration of a classifier: its confidence compared with its accuracy."""

import numpy as np

from rrd_jax.evaluation.rows import chunks

# Bins of equal width over [0, 1], as in arXiv 1706.04599.
BINS = 15


def measure(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray | float]:
    """Computes calibration metrics and the reliability diagram in float64 (arXiv 1706.04599).

    The confidence of an image is the probability of its predicted class. Bin i contains the
    confidences in (i / 15, (i + 1) / 15].

    Args:
      logits: [N, C], finite.
      labels: [N], in [0, C).

    Returns:
      count: [15] int32, number of images per bin;
      confidence: [15], mean confidence per bin, in [0, 1]; NaN in bins without images;
      accuracy: [15], share of correct images per bin, in [0, 1]; NaN in bins without images;
      ece: expected calibration error, the mean of |accuracy - confidence| over images, in [0, 1];
      nll: negative log-likelihood, in nats;
      brier: squared distance between the probabilities and the one-hot label, in [0, 2].
    """
    parts = [_of_images(logits[part], labels[part]) for part in chunks(*logits.shape)]
    confidence, is_correct, likelihood, distance = map(np.concatenate, zip(*parts, strict=True))
    edges = np.linspace(0, 1, BINS + 1)
    bins = np.searchsorted(edges[1:-1], confidence)
    count, mean_confidence, accuracy = (
        np.bincount(bins, weights, minlength=BINS) for weights in (None, confidence, is_correct)
    )
    with np.errstate(invalid="ignore"):
        mean_confidence, accuracy = mean_confidence / count, accuracy / count
    return {
        "count": count.astype(np.int32),
        "confidence": mean_confidence,
        "accuracy": accuracy,
        "ece": float(np.nansum(np.abs(mean_confidence - accuracy) * count) / len(labels)),
        "nll": float(-likelihood.mean()),
        "brier": float(distance.mean()),
    }


def _of_images(
    logits: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns confidence, correctness, log-likelihood and squared distance of each image, [N]."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    probabilities, images = np.exp(log), np.arange(len(labels))
    of_label = probabilities[images, labels]
    distance = (probabilities**2).sum(axis=1) - of_label**2 + (1 - of_label) ** 2
    is_correct = np.argmax(logits, axis=1) == labels
    return probabilities.max(axis=1), is_correct, log[images, labels], distance
