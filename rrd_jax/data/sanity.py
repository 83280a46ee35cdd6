"""Sanity checks on the numbers of a run: labels, first images, losses, predictions.

Functions of arrays on the host, which return warnings or raise errors.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from rrd_jax import errors

_LOOKS = 64  # images of the first batch that are looked at
# A set's own statistics give 0 and 1, within the noise of a batch; those of another set of
# photographs at most 0.6, and 0.5 to 1.3. Sketches, scans and black images lie beyond these.
_FARTHEST, _NARROWEST, _WIDEST = 1.25, 0.25, 3.0


def check_labels(
    labels: np.ndarray, num_classes: int, split: str, index: np.ndarray | None = None
) -> None:
    """Raises an InputError for the first label that is none of the classes.

    Args:
      labels: [N] integers.
      num_classes: C.
      split: its name, for the message.
      index: [N] places of the examples in the split; None for 0 to N - 1.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        first = int(wrong[0])
        example = first if index is None else int(index[first])
        raise errors.InputError(
            f"example {example} of the {split} split has label {labels[first]}, but there are"
            f" {num_classes} classes, from 0 to {num_classes - 1}; {len(wrong)} of"
            f" {len(labels):,} labels are out of range: mend the labels, or the number of classes"
        )


def image_warnings(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> list[str]:
    """Returns warnings about a first batch of training images and their normalization.

    Args:
      images: [B, H, W, channels] uint8, without augmentation.
      mean: of each channel, in [0, 1] units, as data.mean.
      std: likewise, as data.std.

    Examples:
      >>> images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1), dtype=np.uint8)
      >>> image_warnings(images, mean=[0.5], std=[0.3])
      []
      >>> len(image_warnings(images // 128, mean=[0.5], std=[0.3]))
      1
    """
    images = images[:_LOOKS]
    if len(images) > 1 and (images == images[:1]).all():
        return [f"the first {len(images)} training images are all the same: look at the data"]
    warnings = []
    plain = int((np.ptp(images, axis=(1, 2)) == 0).all(axis=-1).sum())
    if images[0, ..., 0].size > 1 and 2 * plain > len(images):
        warnings.append(
            f"{plain} of the first {len(images)} training images have one colour each: look at the"
            " data"
        )
    pixels = images.astype(np.float32) / 255
    own_mean, own_std = pixels.mean(axis=(0, 1, 2)), pixels.std(axis=(0, 1, 2))
    centre, spread = (own_mean - np.asarray(mean)) / std, own_std / std
    usual = (abs(centre) <= _FARTHEST) & (spread >= _NARROWEST) & (spread <= _WIDEST)
    if not usual.all():
        warnings.append(
            f"the network sees training images of mean {_listed(centre)} and deviation"
            f" {_listed(spread)}, which should be near 0 and 1: {_why(images, own_mean, own_std)}"
        )
    return warnings


def _why(images: np.ndarray, mean: np.ndarray, std: np.ndarray) -> str:
    if images.max() <= 1:
        return (
            "no pixel is above 1 of 255, as if they had been scaled to [0, 1] before they became"
            " uint8; give the images 0..255"
        )
    return (
        f"data.mean and data.std are of other images; these have mean {_listed(mean)} and deviation"
        f" {_listed(std)}"
    )


def _listed(values: np.ndarray) -> str:
    text = ", ".join(f"{value:.3g}" for value in values)
    return f"({text})" if len(values) > 1 else text


def prediction_warning(predictions: Mapping[str, np.ndarray]) -> str:
    """Returns a warning if a network predicts one class for every image of a split, else "".

    Args:
      predictions: result of `predictions.collect`.
    """
    classes, labels, losses = (predictions[name] for name in ("prediction", "label", "loss"))
    if (labels == labels[0]).all() or (classes != classes[0]).any():
        return ""
    message = f"all {len(classes):,} test images are put into class {classes[0]}"
    # The loss of constant logits is a function of the label.
    same = all(np.ptp(losses[labels == label]) <= 1e-6 for label in np.unique(labels))
    return (
        f"{message}, with the same logits for each: the embedding is constant" if same else message
    )


def first_not_finite(logged: Mapping[str, np.ndarray]) -> tuple[int, list[str]] | None:
    """Where losses stop being finite.

    Args:
      logged: [n] of each scalar, by name: n steps.

    Returns:
      (the number of the step, from 0, and the names that are not finite in it); None where all are
      finite.
    """
    finite = {name: np.isfinite(values) for name, values in logged.items()}
    bad = ~np.all(list(finite.values()), axis=0)
    if not bad.any():
        return None
    step = int(np.argmax(bad))
    return step, [name for name, values in finite.items() if not values[step]]
