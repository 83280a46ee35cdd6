"""Predictions of student and teacher on the test images."""

import warnings

import numpy as np
import scipy.special

from experiments.measures.outputs import RunOutputs


def compute(outputs: RunOutputs) -> dict[str, np.ndarray | float]:
    """Computes predictions, confidences and accuracies on the test images.

    Returns:
      labels: [N].
      class_names: [C], text.
      For student and teacher, with the role as a prefix:
        prediction: [N], the most probable class;
        confidence: [N], the probability of the prediction;
        confusion: [C, C], counts with a row per label and a column per prediction;
        accuracy: [C], percent per class; NaN for classes without test images;
        top1, balanced_accuracy, macro_f1: in percent.
      For a teacher with the same classes:
        agreement: percentage of images for which student and teacher have the same prediction.
    """
    values = {"labels": outputs.labels, "class_names": np.array(outputs.class_names)}
    for role, network in outputs.classifiers:
        results = _evaluate(network.logits, outputs.labels, len(outputs.class_names))
        values |= {f"{role}_{name}": value for name, value in results.items()}
    if "teacher_prediction" in values:
        same = values["student_prediction"] == values["teacher_prediction"]
        values["agreement"] = 100 * float(np.mean(same))
    return values


def _evaluate(logits: np.ndarray, labels: np.ndarray, count: int) -> dict[str, np.ndarray | float]:
    from sklearn import metrics

    log = scipy.special.log_softmax(logits.astype(np.float64), axis=1)
    prediction = np.argmax(logits, axis=1).astype(np.int32)
    confusion = metrics.confusion_matrix(labels, prediction, labels=np.arange(count))
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        # Classes without test images cause warnings.
        warnings.simplefilter("ignore")
        return {
            "prediction": prediction,
            "confidence": np.exp(log.max(axis=1)).astype(np.float32),
            "confusion": confusion.astype(np.int32),
            "accuracy": 100 * np.diag(confusion) / confusion.sum(axis=1),
            "top1": 100 * metrics.accuracy_score(labels, prediction),
            "balanced_accuracy": 100 * metrics.balanced_accuracy_score(labels, prediction),
            "macro_f1": 100 * metrics.f1_score(labels, prediction, average="macro"),
        }
