"""Teacher preprocessing: the student's, or a separate normalization and resolution."""

import pathlib

import numpy as np

from rrd_jax import errors
from rrd_jax.data.model_info import Preprocessing
from rrd_jax.networks import Network
from rrd_jax.teacher.wrappers import Preprocessed
from rrd_jax.training.choices import TeachingChoice

_TOLERANCE = 1e-4  # of means and deviations, which are published with four digits


def for_teacher(
    teaching: TeachingChoice, known: Preprocessing | None, student: Preprocessing
) -> Preprocessing | None:
    """Returns the preprocessing of a teacher; None if it is the student's.

    Args:
      teaching: the config; fields without a value are taken from the weights.
      known: the preprocessing stored with the weights; None if there is none.
      student: the student's preprocessing.

    Raises:
      InputError: the number of means or deviations is not the number of channels.
    """
    if known is not None and known.channels != student.channels:
        known = None  # `class_matching.check_fits` refuses these weights.
    size, mean, std = (
        getattr(teaching, name) or getattr(known or student, name)
        for name in ("image_size", "mean", "std")
    )
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != student.channels:
            raise errors.InputError(
                f"{teaching.section}.{name} has {len(values)} values, but the images have"
                f" {student.channels} channels"
            )
    alike = np.allclose([mean, std], [student.mean, student.std], rtol=0, atol=_TOLERANCE)
    if size == student.image_size and alike:
        return None
    if alike:
        mean, std = student.mean, student.std
    scaled = teaching.interpolation
    if scaled == "auto":
        scaled = (known or student).interpolation
    return Preprocessing(size, student.channels, tuple(mean), tuple(std), interpolation=scaled)


def wrap(network: Network, seen: Preprocessing | None, student: Preprocessing) -> Network:
    """Wraps a network so that it takes the student's images."""
    if seen is None:
        return network
    mean, std = np.array([student.mean, student.std], np.float64)
    own_mean, own_std = np.array([seen.mean, seen.std], np.float64)
    factor, shift = std / own_std, (mean - own_mean) / own_std
    return Preprocessed(
        network,
        seen.image_size,
        tuple(factor.tolist()),
        tuple(shift.tolist()),
        seen.interpolation,
    )


def describe(
    where: str | pathlib.Path, seen: Preprocessing, student: Preprocessing, teaching: TeachingChoice
) -> str:
    """Describes the preprocessing of a teacher in a line."""
    parts = []
    if seen.image_size != student.image_size:
        size, source = seen.image_size, student.image_size
        parts.append(f"{size}x{size} pixels, {seen.interpolation} from {source}x{source}")
    if (seen.mean, seen.std) != (student.mean, student.std):
        mean, std = (" ".join(f"{v:.4g}" for v in values) for values in (seen.mean, seen.std))
        parts.append(f"mean {mean}, std {std}")
    return (
        f"the teacher in {where} has its own preprocessing: {'; '.join(parts)}"
        f" ({teaching.section}.image_size, .interpolation, .mean and .std set others)"
    )
