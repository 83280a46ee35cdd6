"""Checks of labels and class names, which are the same for every kind of data set."""

import collections
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from rrd_jax import errors

# Number of classes that a message lists.
_LISTED = 5
# The largest share of test images without training images of their class, for a part of a split.
_MAX_UNKNOWN = 0.5


def check_names(names: Sequence[str], num_classes: int, subject: str) -> list[str]:
    """Returns warnings about equal and nearly equal class names.

    Args:
      names: names in the order of labels.
      num_classes: C.
      subject: origin of the names, for messages.

    Raises:
      InputError: the number of names is not C, or a name is blank.
    """
    if len(names) != num_classes:
        raise errors.InputError(
            f"{subject} has {len(names):,} names, but there are {num_classes:,} classes; list one"
            " name per class, in the order of labels"
        )
    blank = [label for label, name in enumerate(names) if not name.strip()]
    if blank:
        raise errors.InputError(
            f"{subject} has a blank name for {_list(blank)} of {num_classes:,} classes; name every"
            " class"
        )
    by_text = collections.defaultdict(list)
    for label, name in enumerate(names):
        by_text[name.casefold().strip()].append(label)
    warnings = []
    for labels in by_text.values():
        spellings = dict.fromkeys(names[label] for label in labels)
        if len(spellings) < len(labels):
            warnings.append(
                f"{subject}: labels {' and '.join(map(str, labels[:_LISTED]))} have the same class"
                f" name '{errors.printable(names[labels[0]])}'; results by name mix them"
            )
        elif len(labels) > 1:
            warnings.append(
                f"classes {' and '.join(map(repr, spellings))} differ only in case or spaces"
            )
    return warnings


def missing_classes(split: str, missing: Iterable[str], count: int, num_classes: int) -> str:
    """Returns a warning about `count` classes without images in a split; lists the first names."""
    listed = ", ".join(itertools.islice(missing, _LISTED))
    more = f" and {count - _LISTED:,} more" if count > _LISTED else ""
    return (
        f"classes without images in split '{split}': {count:,} of {num_classes:,} ({listed}{more})"
    )


def check_splits(
    labels: Sequence[tuple[str, np.ndarray]], num_classes: int, names: Sequence[str] = ()
) -> list[str]:
    """Returns warnings about classes without images.

    Args:
      labels: the split expression and the labels [N] of each split, training images first.
      num_classes: C.
      names: names in the order of labels; () if unknown.

    Raises:
      InputError: training images have only one class, or test images have classes without training
        images. If training images are a part of a split, such as train[:100], a smaller number of
        such test images is a warning.

    Examples:
      >>> check_splits([("train", np.array([0, 1, 2])), ("test", np.array([0, 1, 1]))], 3)
      ["classes without images in split 'test': 1 of 3 (2)"]
    """
    (split, training), *others = labels
    present = np.unique(training)
    if len(present) < 2:
        raise errors.InputError(
            f"all {len(training):,} labels of split '{split}' are {present[0]}, but training needs"
            " at least two classes; check the labels"
        )
    warnings = []
    for other, test in others:
        if problem := _unknown_classes(split, training, other, test, names):
            unknown = np.mean(~np.isin(test, present))
            if "[" not in split or unknown > _MAX_UNKNOWN:
                raise errors.InputError(problem)
            warnings.append(problem)
    for name, part in labels:
        if part is training:
            # There may be many more classes than labels.
            existing, count = set(present.tolist()), num_classes - len(present)
            absent = (label for label in range(num_classes) if label not in existing)
        else:
            absent = np.setdiff1d(present, part).tolist()
            count = len(absent)
        if count:
            texts = (_class_name(label, names) for label in absent)
            warnings.append(missing_classes(name, texts, count, num_classes))
    return warnings


def never_predicted(
    predictions: np.ndarray, labels: np.ndarray, names: Sequence[str] = (), min_images: int = 10
) -> str:
    """Returns a message about classes that a network never predicts; "" for none.

    Args:
      predictions: [N], predicted classes.
      labels: [N].
      names: names in the order of labels; () if unknown.
      min_images: classes with fewer images are ignored.
    """
    counts = np.bincount(labels)
    absent = np.setdiff1d(np.flatnonzero(counts >= min_images), predictions)
    if not absent.size:
        return ""
    texts = [_class_name(int(label), names) for label in absent]
    classes = "1 class is" if absent.size == 1 else f"{absent.size:,} classes are"
    return f"{classes} never predicted for {len(labels):,} test images ({abbreviate(texts)})"


def abbreviate(names: Sequence[str], limit: int = _LISTED) -> str:
    """Returns the first names and the number of remaining names."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _unknown_classes(
    split: str, training: np.ndarray, other: str, test: np.ndarray, names: Sequence[str]
) -> str:
    """Describes test images whose classes have no training images; "" for none."""
    unknown = ~np.isin(test, training)
    if not unknown.any():
        return ""
    classes = np.unique(test[unknown])
    texts = [_class_name(int(label), names) for label in classes]
    ranges = [f"{part.min()} to {part.max()}" for part in (training, test)]
    plural = "" if len(classes) == 1 else "es"
    return (
        f"{unknown.sum():,} of {len(test):,} images of split '{other}' belong to {len(classes):,}"
        f" class{plural} without images in split '{split}' ({abbreviate(texts)}); labels are"
        f" {ranges[0]} in '{split}' and {ranges[1]} in '{other}'; use the same classes and numbers"
        " in both"
    )


def _class_name(label: int, names: Sequence[str]) -> str:
    return errors.printable(names[label]) if label < len(names) else str(label)


def _list(labels: Sequence[int]) -> str:
    word = "label" if len(labels) == 1 else "labels"
    return f"{word} {abbreviate([str(label) for label in labels])}"
