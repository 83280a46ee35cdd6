"""Sanity checks on predictions: chance-level accuracy and permuted class order."""

import numpy as np

# The largest number of classes for a confusion matrix.
_MAX_CLASSES = 4096
# The difference in top-1 that is significant, in standard errors.
_STANDARD_ERRORS = 4


def find_problem(predictions: dict[str, np.ndarray], num_classes: int) -> str:
    """Returns the reason why predictions are implausible; "" if they are plausible.

    Args:
      predictions: `prediction`, `label` and `loss` [N] of a test split, see `predictions.collect`.
      num_classes: C.
    """
    prediction, label = predictions["prediction"], predictions["label"]
    if num_classes < 2 or not len(label):
        return ""
    top1, chance = float(np.mean(prediction == label)), 1 / num_classes
    accuracy = f"top-1 is {100 * top1:.1f} % on {len(label):,} test images"
    if matched := permuted_top1(predictions, num_classes):
        return (
            f"{accuracy}, but {100 * matched:.1f} % with permuted classes; the network was trained"
            " with another class order; name the classes with data.class_names"
        )
    classes = np.unique(prediction)
    if len(classes) == 1 and len(np.unique(label)) > 1:
        return (
            f"{accuracy}, because every prediction is class {classes[0]}; check that the weights"
            " are trained, and that data.mean, data.std and the images are the same as in training"
        )
    # With few images, the accuracy of random predictions varies more.
    near = chance + max(
        min(chance, 0.1 * (1 - chance)),
        min(3 * _deviation(chance, len(label)), 0.5 * (1 - chance)),
    )
    if top1 <= near:
        return (
            f"{accuracy}, close to chance ({100 * chance:.1f} %); check the class order, data.mean,"
            " data.std and the image size, and that the weights are trained"
        )
    return ""


def permuted_top1(predictions: dict[str, np.ndarray], num_classes: int) -> float:
    """Returns the top-1, in [0, 1], with the best order of classes; 0 unless it is far higher.

    Args:
      predictions: see `find_problem`.
      num_classes: C.
    """
    prediction, label = predictions["prediction"], predictions["label"]
    if num_classes < 2 or not len(label):
        return 0.0
    matched = _top1_in_best_order(prediction, label, num_classes)
    gain = matched - float(np.mean(prediction == label))
    limit = max(0.1, _STANDARD_ERRORS * _deviation(matched, len(label)))
    return matched if gain > limit else 0.0


def _deviation(share: float, images: int) -> float:
    """Returns the standard error of a share, estimated from a number of images."""
    return (max(share * (1 - share), 1 / images) / images) ** 0.5


def _top1_in_best_order(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> float:
    """Returns the top-1 with the best permutation of classes, cross-validated on two halves.

    Without cross-validation, the best permutation of random predictions would exceed chance.
    """
    if num_classes > _MAX_CLASSES:
        return 0.0
    # The import takes 0.25 seconds.
    from scipy import optimize

    # Images may be sorted by class, or alternate between classes.
    halves = np.array_split(np.random.default_rng(0).permutation(len(label)), 2)
    right = 0
    for tested, fitted in (halves, halves[::-1]):
        counts = np.zeros((num_classes, num_classes), np.int64)
        np.add.at(counts, (prediction[fitted], label[fitted]), 1)
        _, order = optimize.linear_sum_assignment(counts, maximize=True)
        right += int(np.sum(order[prediction[tested]] == label[tested]))
    return right / len(label)
