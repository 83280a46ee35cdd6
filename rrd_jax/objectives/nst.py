"""Neuron selectivity transfer (arXiv 1707.01219)."""

import jax
import jax.numpy as jnp

from rrd_jax.objectives.base import Objective, Record
from rrd_jax.objectives.parts.arithmetic import unit
from rrd_jax.objectives.parts.maps import Maps, over_taps
from rrd_jax.objectives.parts.pooling import pool_larger


def nst_loss(student: Maps, teacher: Maps) -> jax.Array:
    """Neuron selectivity transfer: the distance (MMD) between two sets of channel patterns.

        x_c = unit(F_c over space),  k(a, b) = (a . b)^2
        loss = sum over taps of mean k(t, t) + mean k(s, s) - 2 mean k(s, t)

    Args:
      student: maps [B, H, W, channels].
      teacher: as many, constant for gradients; the larger of a pair is pooled first. Numbers of
        channels may differ.

    Returns:
      [B] losses >= 0.

    References:
      Huang and Wang, arXiv 1707.01219.
    """

    def patterns(x):
        return unit(x.reshape(len(x), -1, x.shape[-1]).swapaxes(1, 2))

    def similarity(a, b):
        dots = jnp.einsum("bci,bdi->bcd", a, b, precision="highest")
        return jnp.mean(jnp.square(dots), axis=(1, 2))

    total = 0.0
    for pair in zip(student, teacher, strict=True):
        s, t = map(patterns, pool_larger(*pair))
        t = jax.lax.stop_gradient(t)
        total += similarity(t, t) + similarity(s, s) - 2 * similarity(s, t)
    return total


def nst() -> Objective:
    """Neuron selectivity transfer over all taps behind the stem; see `nst_loss`."""
    return over_taps(nst_loss)


RECORD = Record(
    nst,
    "maps, by the distribution of their channels",
    "arXiv 1707.01219",
    weight=50.0,
    needs_classes=False,
)
