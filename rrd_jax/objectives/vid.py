"""VID: variational information distillation (arXiv 1904.05835)."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.functional import per_channel
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import adapters
from rrd_jax.objectives.parts.adapters import Layer
from rrd_jax.objectives.parts.maps import Maps, after_stem
from rrd_jax.objectives.parts.pooling import pool, pool_larger


def vid_loss(
    means: Maps, scales: Sequence[jax.Array], teacher: Maps, *, epsilon: float = 1e-5
) -> jax.Array:
    """Computes VID: -log N(teacher; mean(student), var), up to a constant.

        var_c = log(1 + exp(scale_c)) + epsilon
        loss  = sum over taps of mean_hwc ((mean - F_t)^2 / var + log var) / 2

    Args:
      means: [B, H, W, C] per tap, predicted from the student's maps.
      scales: [C] per tap, see the formula.
      teacher: [B, H', W', C] per tap, constant for gradients, pooled to [H, W].
      epsilon: minimal variance, > 0.

    Returns:
      [B] losses; negative if variances are small.

    References:
      Ahn et al., arXiv 1904.05835.
    """
    errors.check_positive(epsilon=epsilon)
    total = 0.0
    for mean, scale, target in zip(means, scales, teacher, strict=True):
        mean = mean.astype(jnp.float32)
        target = jax.lax.stop_gradient(pool(target, *mean.shape[1:3]))
        variance = jax.nn.softplus(scale.astype(jnp.float32)) + epsilon
        variance = per_channel(variance, mean)
        terms = jnp.square(mean - target) / variance + jnp.log(variance)
        total += 0.5 * jnp.mean(terms, axis=(1, 2, 3))
    return total


def vid(*, variance: float = 5.0, epsilon: float = 1e-5) -> Objective:
    """Builds VID on all taps after the stem; see `vid_loss`.

    Three 1x1 convolutions of the student's map predict the means.

    Args:
      variance: initial variance, > epsilon.
      epsilon: minimal variance, > 0.

    Raises:
      InputError: a value is out of range.
    """
    errors.check_positive(epsilon=epsilon, variance=variance)
    if variance <= epsilon:
        raise errors.InputError(f"variance is {variance}, but must be above epsilon, {epsilon}")
    # The inverse of softplus at variance - epsilon.
    start = variance - epsilon + math.log(-math.expm1(epsilon - variance))

    def init(key, student, teacher):
        params = {}
        for i, (s, t) in enumerate(after_stem(student, teacher)):
            channels, tap_key = t.shape[-1], jax.random.fold_in(key, i)
            params[f"tap{i}"] = {
                "mean": adapters.init(tap_key, _layers(channels), s.shape[-1]),
                "scale": jnp.full(channels, start, jnp.float32),
            }
        return ObjectiveState(params=params)

    def loss(state, student, teacher, batch):
        del batch
        means, scales, targets = [], [], []
        for i, pair in enumerate(after_stem(student, teacher)):
            s, t = pool_larger(*pair)
            params = state.params[f"tap{i}"]
            means.append(adapters.apply(_layers(t.shape[-1]), params["mean"], s))
            scales.append(params["scale"])
            targets.append(t)
        return vid_loss(means, scales, targets, epsilon=epsilon), state.memory

    return Objective(init, loss, taps=after_stem)


def _layers(channels: int) -> tuple[Layer, ...]:
    plain = Layer(channels, norm=False)
    return plain, plain, plain._replace(slope=1.0)


RECORD = Record(
    vid,
    "likelihood of the teacher's maps",
    "arXiv 1904.05835",
    needs_classes=False,
)
