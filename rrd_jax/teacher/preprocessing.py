"""Teacher preprocessing: the student's, or a separate normalization and resolution."""

import pathlib

import numpy as np

from rrd_jax import errors
from rrd_jax.data.model_info import Preprocessing
from rrd_jax.networks import Network
from rrd_jax.teacher.wrappers import Preprocessed
from rrd_jax.training.choices import TeachingChoice

# The tolerance for means and standard deviations, which are published with four digits.
_TOLERANCE = 1e-4


def for_teacher(
    teaching: TeachingChoice, stored: Preprocessing | None, student: Preprocessing
) -> Preprocessing | None:
    """Returns the preprocessing of a teacher; None if it equals the student's.

    Args:
      teaching: the teacher's config; empty fields default to the preprocessing of the weights.
      stored: the preprocessing stored with the weights; None if unknown.
      student: the student's preprocessing.

    Raises:
      InputError: the number of means or standard deviations is not the number of channels.
    """
    # `class_matching.check_fits` rejects weights for another number of channels.
    if stored is not None and stored.channels != student.channels:
        stored = None
    size, mean, std = (
        getattr(teaching, name) or getattr(stored or student, name)
        for name in ("image_size", "mean", "std")
    )
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != student.channels:
            raise errors.InputError(
                f"{teaching.section}.{name} has {len(values)} values, but the images have"
                f" {student.channels} channels; set one value per channel"
            )
    same_values = np.allclose([mean, std], [student.mean, student.std], rtol=0, atol=_TOLERANCE)
    if size == student.image_size and same_values:
        return None
    if same_values:
        mean, std = student.mean, student.std
    interpolation = teaching.interpolation
    if interpolation == "auto":
        interpolation = (stored or student).interpolation
    return Preprocessing(
        size, student.channels, tuple(mean), tuple(std), interpolation=interpolation
    )


def wrap(network: Network, teacher: Preprocessing | None, student: Preprocessing) -> Network:
    """Wraps a teacher's network so that its inputs are the student's images."""
    if teacher is None:
        return network
    mean, std = np.array([student.mean, student.std], np.float64)
    teacher_mean, teacher_std = np.array([teacher.mean, teacher.std], np.float64)
    factor, shift = std / teacher_std, (mean - teacher_mean) / teacher_std
    return Preprocessed(
        network,
        teacher.image_size,
        tuple(factor.tolist()),
        tuple(shift.tolist()),
        teacher.interpolation,
    )


def describe(
    location: str | pathlib.Path,
    teacher: Preprocessing,
    student: Preprocessing,
    teaching: TeachingChoice,
) -> str:
    """Describes a teacher's preprocessing for the log."""
    parts = []
    if teacher.image_size != student.image_size:
        size, source = teacher.image_size, student.image_size
        parts.append(f"{size}x{size} pixels, {teacher.interpolation} from {source}x{source}")
    if (teacher.mean, teacher.std) != (student.mean, student.std):
        mean, std = (" ".join(f"{v:.4g}" for v in values) for values in (teacher.mean, teacher.std))
        parts.append(f"mean {mean}, std {std}")
    return (
        f"preprocessing of the teacher in {location}: {'; '.join(parts)} (override with"
        f" {teaching.section}.image_size, .interpolation, .mean or .std)"
    )
