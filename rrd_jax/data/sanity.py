"""Sanity checks of a run's labels, first images, losses and predictions.

The functions take arrays on the host, and return warnings or raise errors.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from rrd_jax import errors

# Number of images of the first batch that are checked.
_NUM_IMAGES = 64
# Limits of mean and standard deviation after normalization. With the statistics of the data set
# itself, these are about 0 and 1; with those of another set of photographs, the mean is at most 0.6
# and the deviation 0.5 to 1.3. Sketches, scans and black images exceed the limits.
_MAX_OFFSET, _MIN_SPREAD, _MAX_SPREAD = 1.25, 0.25, 3.0


def check_labels(
    labels: np.ndarray, num_classes: int, split: str, index: np.ndarray | None = None
) -> None:
    """Raises an InputError for the first label outside 0..C-1.

    Args:
      labels: int [N], class ids.
      num_classes: C.
      split: name of the split, for messages.
      index: int [N], indices of the examples in the split; None for 0 to N - 1.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        first = int(wrong[0])
        example = first if index is None else int(index[first])
        raise errors.InputError(
            f"example {example} of the {split} split has label {labels[first]}, but there are"
            f" {num_classes} classes, from 0 to {num_classes - 1}; {len(wrong)} of"
            f" {len(labels):,} labels are out of range; correct the labels or the number of classes"
        )


def image_warnings(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> list[str]:
    """Returns warnings about the first batch of training images and its normalization.

    Args:
      images: uint8 [B, H, W, channels], without augmentation.
      mean: mean per channel in [0, 1] units (data.mean).
      std: standard deviation per channel in [0, 1] units (data.std).

    Examples:
      >>> images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1), dtype=np.uint8)
      >>> image_warnings(images, mean=[0.5], std=[0.3])
      []
      >>> len(image_warnings(images // 128, mean=[0.5], std=[0.3]))
      1
    """
    images = images[:_NUM_IMAGES]
    if len(images) > 1 and (images == images[:1]).all():
        return [f"the first {len(images)} training images are identical; check the data"]
    warnings = []
    plain = int((np.ptp(images, axis=(1, 2)) == 0).all(axis=-1).sum())
    if images[0, ..., 0].size > 1 and 2 * plain > len(images):
        warnings.append(
            f"{plain} of the first {len(images)} training images have a uniform color; check the"
            " data"
        )
    pixels = images.astype(np.float32) / 255
    image_mean, image_std = pixels.mean(axis=(0, 1, 2)), pixels.std(axis=(0, 1, 2))
    offset, spread = (image_mean - np.asarray(mean)) / std, image_std / std
    plausible = (abs(offset) <= _MAX_OFFSET) & (spread >= _MIN_SPREAD) & (spread <= _MAX_SPREAD)
    if images.max() <= 1:
        warnings.append(
            f"no pixel of the first {len(images)} training images is above 1 of 255, as after"
            " scaling to [0, 1] twice or before conversion to uint8; use pixels in 0..255"
        )
    elif not plausible.all():
        warnings.append(
            f"normalized training images have mean {_format_values(offset)} and standard deviation"
            f" {_format_values(spread)}, but should be near 0 and 1: data.mean and data.std do not"
            f" match the images, which have mean {_format_values(image_mean)} and standard"
            f" deviation {_format_values(image_std)}"
        )
    return warnings


def _format_values(values: np.ndarray) -> str:
    text = ", ".join(f"{value:.3g}" for value in values)
    return f"({text})" if len(values) > 1 else text


def prediction_warning(predictions: Mapping[str, np.ndarray]) -> str:
    """Returns a warning if a network predicts the same class for all images of a split, else "".

    Args:
      predictions: result of `predictions.collect`.
    """
    classes, labels, losses = (predictions[name] for name in ("prediction", "label", "loss"))
    if (labels == labels[0]).all() or (classes != classes[0]).any():
        return ""
    message = f"all {len(classes):,} test images are classified as class {classes[0]}"
    # With constant logits, the loss depends only on the label.
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=labels[order[0]] - 1))
    by_label = losses[order]
    spread = np.maximum.reduceat(by_label, starts) - np.minimum.reduceat(by_label, starts)
    same = (spread <= 1e-6).all()
    return f"{message} with identical logits: the embedding is constant" if same else message


def first_not_finite(logged: Mapping[str, np.ndarray]) -> tuple[int, list[str]] | None:
    """Returns the first step with a value that is not finite.

    Args:
      logged: [n] values of each scalar by name, for n steps.

    Returns:
      (step, names): the index of the step, from 0, and the names of the scalars that are not finite
      in this step; None if all values are finite.
    """
    finite = {name: np.isfinite(values) for name, values in logged.items()}
    bad = ~np.all(list(finite.values()), axis=0)
    if not bad.any():
        return None
    step = int(np.argmax(bad))
    return step, [name for name, values in finite.items() if not values[step]]
