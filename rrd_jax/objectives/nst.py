"""Neuron selectivity transfer (arXiv 1707.01219)."""

import jax
import jax.numpy as jnp

from rrd_jax.objectives.base import Objective, Record
from rrd_jax.objectives.parts.arithmetic import unit
from rrd_jax.objectives.parts.maps import Maps, over_taps
from rrd_jax.objectives.parts.pooling import pool_larger


def nst_loss(student: Maps, teacher: Maps) -> jax.Array:
    """Computes neuron selectivity transfer: the MMD between the channel patterns of two maps.

        x_c = unit(F_c over space),  k(a, b) = (a . b)^2
        loss = sum over taps of mean k(t, t) + mean k(s, s) - 2 mean k(s, t)

    Args:
      student: maps [B, H, W, channels].
      teacher: the same number of maps, constant for gradients; the larger map of a pair is pooled
        first. Channels may differ.

    Returns:
      [B] losses >= 0.

    References:
      Huang and Wang, arXiv 1707.01219.
    """
    total = 0.0
    for pair in zip(student, teacher, strict=True):
        s, t = (x.reshape(len(x), -1, x.shape[-1]) for x in pool_larger(*pair))
        s, t = unit(s, axis=1), unit(jax.lax.stop_gradient(t), axis=1)
        similarities = _by_position if _is_cheaper_by_position(s, t) else _by_channel
        within_t, within_s, across = similarities(s, t)
        total += within_t + within_s - 2 * across
    return total


def _by_channel(s: jax.Array, t: jax.Array) -> tuple[jax.Array, ...]:
    """Computes the means of k(t, t), k(s, s) and k(s, t), [B], of patterns [B, HW, channels]."""

    def similarity(a, b):
        dots = jnp.einsum("bic,bid->bcd", a, b, precision="highest")
        return jnp.mean(jnp.square(dots), axis=(1, 2))

    return similarity(t, t), similarity(s, s), similarity(s, t)


def _by_position(s: jax.Array, t: jax.Array) -> tuple[jax.Array, ...]:
    """Computes the means of `_by_channel` from Gram matrices of the positions i, j.

    sum_cd (s_c . t_d)^2 = sum_ij (s_i . s_j) (t_i . t_j)
    """

    def grams(x):
        return jnp.einsum("bic,bjc->bij", x, x, precision="highest") / x.shape[-1]

    grams_s, grams_t = grams(s), grams(t)
    pairs = (grams_t, grams_t), (grams_s, grams_s), (grams_s, grams_t)
    return tuple(jnp.sum(a * b, axis=(1, 2)) for a, b in pairs)


def _is_cheaper_by_position(s: jax.Array, t: jax.Array) -> bool:
    """Returns True if `_by_position` takes fewer multiplications."""
    positions, channels_s, channels_t = s.shape[1], s.shape[2], t.shape[2]
    by_channel = channels_s**2 + channels_t**2 + channels_s * channels_t
    return positions * (channels_s + channels_t) < by_channel


def nst() -> Objective:
    """Builds neuron selectivity transfer on all taps after the stem; see `nst_loss`."""
    return over_taps(nst_loss)


RECORD = Record(
    nst,
    "distributions of the maps' channels",
    "arXiv 1707.01219",
    weight=50.0,
    needs_classes=False,
)
