"""What student and teacher take test images for, and where they differ."""

import warnings

import numpy as np
import scipy.special

from experiments.measures import sampling
from experiments.measures.subject import Answers, Subject

_SHOWN = 24  # images that two networks see differently


def of(subject: Subject) -> dict[str, np.ndarray | float]:
    """Classes, confidences and figures of them; percentages are of test images.

    Returns:
      labels: [N]; class_names: [C] text.
      Of student and teacher, each with its role before the name:
        prediction: [N], the most probable class;
        confidence: [N], its probability;
        entropy: [N] of the probabilities, in nats;
        confusion: [C, C] counts, a row a label, a column a prediction;
        accuracy: [C], the percentage of each class that is recognised; NaN for classes without
          test images;
        top1, balanced_accuracy, macro_f1: in per cent.
      agreement: the percentage of images that both take for the same; and of those that they do
      not, the up to 24 of which both are surest:
        differing: [K] their indices, the surest first; differing_images: [K, h, w, channels].
      The last three only if there is a teacher of these classes.
    """
    values = {"labels": subject.labels, "class_names": np.array(subject.class_names)}
    for role, answers in subject.classifiers:
        found = _of_network(answers, subject.labels, subject.num_classes)
        values |= {f"{role}_{name}": value for name, value in found.items()}
    if "teacher_prediction" in values:
        values |= _differences(subject, values)
    return values


def _of_network(answers: Answers, labels: np.ndarray, count: int) -> dict[str, np.ndarray | float]:
    from sklearn import metrics

    log = scipy.special.log_softmax(answers.logits.astype(np.float64), axis=1)
    prediction = np.argmax(answers.logits, axis=1).astype(np.int32)
    confusion = metrics.confusion_matrix(labels, prediction, labels=np.arange(count))
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore")  # of classes without test images
        return {
            "prediction": prediction,
            "confidence": np.exp(log.max(axis=1)).astype(np.float32),
            "entropy": scipy.special.entr(np.exp(log)).sum(axis=1).astype(np.float32),
            "confusion": confusion.astype(np.int32),
            "accuracy": 100 * np.diag(confusion) / confusion.sum(axis=1),
            "top1": 100 * metrics.accuracy_score(labels, prediction),
            "balanced_accuracy": 100 * metrics.balanced_accuracy_score(labels, prediction),
            "macro_f1": 100 * metrics.f1_score(labels, prediction, average="macro"),
        }


def _differences(
    subject: Subject, values: dict[str, np.ndarray | float]
) -> dict[str, np.ndarray | float]:
    differ = values["student_prediction"] != values["teacher_prediction"]
    surest = np.minimum(values["student_confidence"], values["teacher_confidence"])
    places = np.flatnonzero(differ)
    places = places[np.argsort(-surest[places], kind="stable")][:_SHOWN]
    return {
        "agreement": 100 * float(np.mean(~differ)),
        "differing": places.astype(np.int32),
        "differing_images": sampling.thumbnails(subject.images[places]),
    }
