"""Sanity checks on predictions: chance-level accuracy and permuted class order."""

import numpy as np

_MOST_CLASSES = 4096  # for a confusion matrix
_STANDARD_ERRORS = 4  # of a significant difference


def find_problem(tested: dict[str, np.ndarray], num_classes: int) -> str:
    """Returns why predictions look wrong, in a line; "" if they do not.

    Args:
      tested: `prediction`, `label` and `loss` [N] of a test split; see `predictions.collect`.
      num_classes: C.
    """
    prediction, label = tested["prediction"], tested["label"]
    if num_classes < 2 or not len(label):
        return ""
    top1, chance = float(np.mean(prediction == label)), 1 / num_classes
    about = f"{100 * top1:.1f} % of {len(label):,} test images right"
    matched = _top1_in_best_order(prediction, label, num_classes)
    if matched - top1 > max(0.1, _STANDARD_ERRORS * _deviation(matched, len(label))):
        return (
            f"it gets {about}, but {100 * matched:.1f} % if its classes are put into another"
            " order: it was trained with classes in another order than the data's"
        )
    classes = np.unique(prediction)
    if len(classes) == 1 and len(np.unique(label)) > 1:
        return (
            f"it puts every test image into class {classes[0]}, and gets {about}: its weights are"
            " not trained, or data.mean and data.std, or the images, are not those it was trained"
            " with"
        )
    # For a few images, accuracy by chance varies more.
    near = chance + max(
        min(chance, 0.1 * (1 - chance)),
        min(3 * _deviation(chance, len(label)), 0.5 * (1 - chance)),
    )
    if top1 <= near:
        return (
            f"it gets {about}, where guessing gets {100 * chance:.1f} %: its classes are in another"
            " order, data.mean and data.std or the image size are not those it was trained with, or"
            " it is not trained"
        )
    return ""


def _deviation(share: float, images: int) -> float:
    """Returns the standard error of a share of `images` images."""
    return (max(share * (1 - share), 1 / images) / images) ** 0.5


def _top1_in_best_order(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> float:
    """Returns the top-1 with the best permutation of classes, cross-validated on two halves.

    With the same images, the best permutation of random predictions would exceed chance.
    """
    if num_classes > _MOST_CLASSES:
        return 0.0
    from scipy import optimize  # The import takes a quarter of a second.

    halves = [slice(0, None, 2), slice(1, None, 2)]
    right = 0
    for tested, fitted in (halves, halves[::-1]):
        counts = np.zeros((num_classes, num_classes), np.int64)
        np.add.at(counts, (prediction[fitted], label[fitted]), 1)
        _, order = optimize.linear_sum_assignment(counts, maximize=True)
        right += int(np.sum(order[prediction[tested]] == label[tested]))
    return right / len(label)
