"""Attention transfer (arXiv 1612.03928)."""

import functools
import math

import jax

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, Record
from rrd_jax.objectives.parts.arithmetic import mean_square
from rrd_jax.objectives.parts.maps import Maps, over_taps, strength
from rrd_jax.objectives.parts.pooling import pool_larger


def at_loss(student: Maps, teacher: Maps, *, power: float = 2) -> jax.Array:
    """Computes attention transfer: the distance of the networks' spatial attention maps.

        a(F) = unit(mean_c |F_c|^power),  loss = sum over taps of mean_hw (a(F_s) - a(F_t))^2

    Args:
      student: maps [B, H, W, channels].
      teacher: the same number of maps, constant for gradients; the larger map of a pair is pooled
        first.
      power: exponent of the absolute activations, >= 1.

    Returns:
      [B] losses >= 0; 0 if the attention maps are equal.

    Raises:
      InputError: the power is below 1.

    References:
      Zagoruyko and Komodakis, arXiv 1612.03928.
    """
    _check_power(power)
    total = 0.0
    for pair in zip(student, teacher, strict=True):
        total += mean_square(*(strength(x, power) for x in pool_larger(*pair)))
    return total


def at(*, power: float = 2.0) -> Objective:
    """Builds attention transfer on all taps after the stem; see `at_loss`."""
    _check_power(power)
    return over_taps(functools.partial(at_loss, power=power))


def _check_power(power: float) -> None:
    if not 1 <= power < math.inf:
        raise errors.InputError(f"power is {power}, but must be a finite number, at least 1")


RECORD = Record(
    at,
    "spatial attention of maps",
    "arXiv 1612.03928",
    weight=1000.0,
    needs_classes=False,
)
