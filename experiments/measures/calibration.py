"""Calibration of networks: confidence compared with accuracy."""

import numpy as np
import scipy.special

from experiments.measures.outputs import RunOutputs

_BINS = 15


def compute(outputs: RunOutputs) -> dict[str, np.ndarray | float]:
    """Computes the reliability of the probability of the predicted class (arXiv 1706.04599).

    Returns:
      edges: [16], the edges of 15 bins of equal width over [0, 1].
      For student and teacher, with the role as a prefix:
        count: [15], number of images per bin of confidence;
        confidence: [15], mean confidence per bin, in [0, 1]; NaN in bins without images;
        accuracy: [15], share of correct images per bin, in [0, 1]; NaN in bins without images;
        ece: expected calibration error, the mean of |accuracy - confidence| over images;
        nll: negative log-likelihood, in nats;
        brier: squared distance between the probabilities and the one-hot label, in [0, 2].
    """
    values: dict[str, np.ndarray | float] = {"edges": np.linspace(0, 1, _BINS + 1)}
    for role, network in outputs.classifiers:
        results = _calibration(network.logits, outputs.labels, values["edges"])
        values |= {f"{role}_{name}": value for name, value in results.items()}
    return values


def _calibration(
    logits: np.ndarray, labels: np.ndarray, edges: np.ndarray
) -> dict[str, np.ndarray | float]:
    from sklearn import metrics

    log = scipy.special.log_softmax(logits.astype(np.float64), axis=1)
    confidence = np.exp(log.max(axis=1))
    is_correct = np.argmax(logits, axis=1) == labels
    # The bins of sklearn.calibration.
    bins = np.searchsorted(edges[1:-1], confidence)
    count, mean_confidence, accuracy = (
        np.bincount(bins, weights, minlength=len(edges) - 1)
        for weights in (None, confidence, is_correct)
    )
    with np.errstate(invalid="ignore"):
        mean_confidence, accuracy = mean_confidence / count, accuracy / count
    return {
        "count": count.astype(np.int32),
        "confidence": mean_confidence,
        "accuracy": accuracy,
        "ece": float(np.nansum(np.abs(mean_confidence - accuracy) * count) / len(labels)),
        # Computed from logits like the loss of a run, because scikit-learn's log_loss clips
        # probabilities.
        "nll": float(-np.mean(log[np.arange(len(labels)), labels])),
        "brier": metrics.brier_score_loss(
            labels, np.exp(log), labels=np.arange(log.shape[1]), scale_by_half=False
        ),
    }
