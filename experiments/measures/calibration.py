"""Calibration of networks: confidence against accuracy."""

import numpy as np
import scipy.special

from experiments.measures.outputs import RunOutputs

_BINS = 15


def compute(outputs: RunOutputs) -> dict[str, np.ndarray | float]:
    """Computes the reliability of the probability of the predicted class (arXiv 1706.04599).

    Returns:
      edges: [16] of 15 bins of equal width over [0, 1].
      Of student and teacher, each with its role as a prefix:
        count: [15] images whose confidence falls into each bin;
        confidence: [15], its mean in each bin, and accuracy: [15], the share of correct images,
          both in [0, 1], and NaN in bins without images;
        ece: the expected calibration error, the mean of |accuracy - confidence| over images;
        nll: the negative log-likelihood, in nats;
        brier: the squared distance of probabilities from the label's, in [0, 2].
    """
    values: dict[str, np.ndarray | float] = {"edges": np.linspace(0, 1, _BINS + 1)}
    for role, network in outputs.classifiers:
        found = _calibration(network.logits, outputs.labels, values["edges"])
        values |= {f"{role}_{name}": value for name, value in found.items()}
    return values


def _calibration(
    logits: np.ndarray, labels: np.ndarray, edges: np.ndarray
) -> dict[str, np.ndarray | float]:
    from sklearn import metrics

    log = scipy.special.log_softmax(logits.astype(np.float64), axis=1)
    confidence = np.exp(log.max(axis=1))
    right = np.argmax(logits, axis=1) == labels
    places = np.searchsorted(edges[1:-1], confidence)  # The bins of sklearn.calibration.
    count, sure, correct = (
        np.bincount(places, weights, minlength=len(edges) - 1)
        for weights in (None, confidence, right)
    )
    with np.errstate(invalid="ignore"):
        sure, correct = sure / count, correct / count
    return {
        "count": count.astype(np.int32),
        "confidence": sure,
        "accuracy": correct,
        "ece": float(np.nansum(np.abs(sure - correct) * count) / len(labels)),
        # From logits, like a run's loss: scikit-learn's log_loss clips probabilities.
        "nll": float(-np.mean(log[np.arange(len(labels)), labels])),
        "brier": metrics.brier_score_loss(
            labels, np.exp(log), labels=np.arange(log.shape[1]), scale_by_half=False
        ),
    }
