"""How a teacher sees images: as its student does, or with its own normalisation and size."""

import pathlib

import numpy as np

from rrd_jax import errors
from rrd_jax.data.model_info import Preprocessing
from rrd_jax.networks import Network
from rrd_jax.teacher.wrapped import Preprocessed
from rrd_jax.training.choices import TeachingChoice

_ALIKE = 1e-4  # of means and deviations, which are published with four digits


def own(
    teaching: TeachingChoice, known: Preprocessing | None, student: Preprocessing
) -> Preprocessing | None:
    """What a teacher's network is to see; None where that is what the student sees.

    Args:
      teaching: what the config says; what it leaves open is as the weights say.
      known: what the weights say; None for nothing.
      student: what the student sees.

    Raises:
      InputError: there is not one mean and deviation for each channel.
    """
    if known is not None and known.channels != student.channels:
        known = None  # of other images, which are refused elsewhere
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
    alike = np.allclose([mean, std], [student.mean, student.std], rtol=0, atol=_ALIKE)
    if size == student.image_size and alike:
        return None
    if alike:
        mean, std = student.mean, student.std
    scaled = teaching.interpolation
    if scaled == "auto":
        scaled = (known or student).interpolation
    return Preprocessing(size, student.channels, tuple(mean), tuple(std), interpolation=scaled)


def wrap(network: Network, seen: Preprocessing | None, student: Preprocessing) -> Network:
    """A network that is given what the student sees, and sees what `own` says."""
    if seen is None:
        return network
    there, here = (np.array([form.mean, form.std], np.float64) for form in (student, seen))
    factor, shift = there[1] / here[1], (there[0] - here[0]) / here[1]
    moments = tuple(factor.tolist()), tuple(shift.tolist())
    return Preprocessed(network, seen.image_size, *moments, seen.interpolation)


def describe(
    where: str | pathlib.Path, seen: Preprocessing, student: Preprocessing, teaching: TeachingChoice
) -> str:
    """What is done to the images of a teacher, in a line."""
    parts = []
    if seen.image_size != student.image_size:
        size, there = seen.image_size, student.image_size
        parts.append(f"{size}x{size} pixels, {seen.interpolation} from {there}x{there}")
    if (seen.mean, seen.std) != (student.mean, student.std):
        mean, std = (" ".join(f"{v:.4g}" for v in values) for values in (seen.mean, seen.std))
        parts.append(f"mean {mean}, std {std}")
    return (
        f"the teacher in {where} sees images in its own way: {'; '.join(parts)}"
        f" ({teaching.section}.image_size, .interpolation, .mean and .std set others)"
    )
