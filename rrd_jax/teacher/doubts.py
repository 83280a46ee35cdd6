"""What predictions give away: a network that guesses, or has the classes in another order."""

import numpy as np

_CLASSES = 4096  # beyond, a table of classes by classes takes long
_ERRORS = 4  # standard errors that count as certain


def of(tested: dict[str, np.ndarray], num_classes: int) -> str:
    """Why predictions look wrong, in a line; "" where they do not.

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
    if matched - top1 > max(0.1, _ERRORS * _deviation(matched, len(label))):
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
    # Near chance, and for a few images what chance can reach.
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
    """The standard error of a share of so many images."""
    return (max(share * (1 - share), 1 / images) / images) ** 0.5


def _top1_in_best_order(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> float:
    """The top-1 with the classes re-assigned, each half by what the other half says.

    By the same images, chance alone would find an order that suits them.
    """
    if num_classes > _CLASSES:
        return 0.0
    from scipy import optimize  # a quarter of a second, which runs without a teacher need not wait

    halves = [slice(0, None, 2), slice(1, None, 2)]
    right = 0
    for here, there in (halves, halves[::-1]):
        counts = np.zeros((num_classes, num_classes), np.int64)
        np.add.at(counts, (prediction[there], label[there]), 1)
        _, order = optimize.linear_sum_assignment(counts, maximize=True)
        right += int(np.sum(order[prediction[here]] == label[here]))
    return right / len(label)
