"""Objectives that compare a student's feature maps with a teacher's, pair by pair."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives import adapters
from rrd_jax.objectives.adapters import Layer
from rrd_jax.objectives.base import Objective, ObjectiveState
from rrd_jax.objectives.rrd import unit

Maps = Sequence[jax.Array]


def mean_square(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """[B] means over all but the first axis of (student - teacher)^2; teacher is constant."""
    teacher = jax.lax.stop_gradient(teacher).astype(jnp.float32)
    difference = student.astype(jnp.float32) - teacher
    return jnp.mean(jnp.square(difference), axis=tuple(range(1, difference.ndim)))


def fitnet_loss(adapted: jax.Array, teacher: jax.Array) -> jax.Array:
    """FitNet's hint: the mean square of r(student) - teacher, r a regressor.

    Args:
      adapted: [B, H, W, C] r(student).
      teacher: [B, H', W', C], constant for gradients; the larger of the two is pooled.

    Returns:
      [B] losses >= 0.

    References:
      Romero et al., arXiv 1412.6550.
    """
    return mean_square(*adapters.pool_larger(adapted, teacher))


def fitnet(*, tap: int = 2) -> Objective:
    """FitNet in one stage: the regressor is trained with the student; see `fitnet_loss`.

    Args:
      tap: index among the networks' maps, 0 for the stem.

    Raises:
      InputError: a negative tap; in `init`, a network has no such tap.
    """
    if tap < 0:
        raise errors.InputError(f"tap is {tap}, but must be 0 or above")

    def layers(student, teacher):
        count = min(len(student.maps), len(teacher.maps))
        if tap >= count:
            raise errors.InputError(f"tap is {tap}, but the networks share only {count} taps")
        return adapters.regressor(student.maps[tap].shape, teacher.maps[tap].shape)

    def init(key, student, teacher):
        channels = student.maps[tap].shape[-1] if tap < len(student.maps) else 0
        return ObjectiveState(params=adapters.init(key, layers(student, teacher), channels))

    def loss(state, student, teacher, batch):
        del batch
        adapted = adapters.apply(layers(student, teacher), state.params, student.maps[tap])
        return fitnet_loss(adapted, teacher.maps[tap]), state.memory

    return Objective(init, loss)


def attention(x: jax.Array, power: float = 2) -> jax.Array:
    """[B, H, W, C] to [B, HW] of length 1: the mean over channels of |x|^power."""
    strength = jnp.mean(jnp.abs(x.astype(jnp.float32)) ** power, axis=-1)
    return unit(strength.reshape(len(x), -1))


def at_loss(student: Maps, teacher: Maps, *, power: float = 2) -> jax.Array:
    """Attention transfer: where the networks look, and not at what.

        a(F) = unit(mean_c |F_c|^power),  loss = sum over taps of mean_hw (a(F_s) - a(F_t))^2

    Args:
      student: maps [B, H, W, channels].
      teacher: as many, constant for gradients; the larger of a pair is pooled first.
      power: >= 1.

    Returns:
      [B] losses >= 0, 0 where the attention is the same.

    Raises:
      InputError: a power below 1.

    References:
      Zagoruyko and Komodakis, arXiv 1612.03928.
    """
    if not 1 <= power < math.inf:
        raise errors.InputError(f"power is {power}, but must be a number of 1 or above")
    total = 0.0
    for pair in zip(student, teacher, strict=True):
        total += mean_square(*(attention(x, power) for x in adapters.pool_larger(*pair)))
    return total


def at(*, power: float = 2) -> Objective:
    """Attention transfer over all taps behind the stem; see `at_loss`."""
    if not 1 <= power < math.inf:
        raise errors.InputError(f"power is {power}, but must be a number of 1 or above")
    return over_taps(functools.partial(at_loss, power=power))


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
        s, t = map(patterns, adapters.pool_larger(*pair))
        t = jax.lax.stop_gradient(t)
        total += similarity(t, t) + similarity(s, s) - 2 * similarity(s, t)
    return total


def nst() -> Objective:
    """Neuron selectivity transfer over all taps behind the stem; see `nst_loss`."""
    return over_taps(nst_loss)


def vid_loss(
    means: Maps, scales: Sequence[jax.Array], teacher: Maps, *, epsilon: float = 1e-5
) -> jax.Array:
    """Variational information distillation: -log N(teacher; mean(student), var), less a constant.

        var_c = log(1 + exp(scale_c)) + epsilon
        loss  = sum over taps of mean_hwc ((mean - F_t)^2 / var + log var) / 2

    Args:
      means: [B, H, W, C], predicted from the student's maps.
      scales: [C] of each tap.
      teacher: [B, H', W', C] of each tap, constant for gradients, pooled to [H, W].
      epsilon: > 0, the least variance.

    Returns:
      [B] losses; below 0 where variances are small.

    References:
      Ahn et al., arXiv 1904.05835.
    """
    errors.check_positive(epsilon=epsilon)
    total = 0.0
    for mean, scale, target in zip(means, scales, teacher, strict=True):
        mean = mean.astype(jnp.float32)
        target = jax.lax.stop_gradient(adapters.pool(target, *mean.shape[1:3]))
        variance = jax.nn.softplus(scale.astype(jnp.float32)) + epsilon
        terms = jnp.square(mean - target) / variance + jnp.log(variance)
        total += 0.5 * jnp.mean(terms, axis=(1, 2, 3))
    return total


def vid(*, variance: float = 5.0, epsilon: float = 1e-5) -> Objective:
    """VID over all taps behind the stem; means are three 1x1 convolutions of the student's maps.

    Args:
      variance: > epsilon, what it starts with.
      epsilon: > 0, its least.

    Raises:
      InputError: a value out of range.
    """
    errors.check_positive(epsilon=epsilon, variance=variance)
    if variance <= epsilon:
        raise errors.InputError(f"variance is {variance}, but must be above epsilon, {epsilon}")
    start = variance - epsilon + math.log(-math.expm1(epsilon - variance))  # softplus^-1

    def pairs(student, teacher):
        return adapters.paired(student.maps[1:], teacher.maps[1:])

    def layers(channels):
        plain = Layer(channels, norm=False)
        return plain, plain, plain._replace(slope=1.0)

    def init(key, student, teacher):
        params = {}
        for i, (s, t) in enumerate(pairs(student, teacher)):
            channels, own = t.shape[-1], jax.random.fold_in(key, i)
            params[f"tap{i}"] = {
                "mean": adapters.init(own, layers(channels), s.shape[-1]),
                "scale": jnp.full(channels, start, jnp.float32),
            }
        return ObjectiveState(params=params)

    def loss(state, student, teacher, batch):
        del batch
        means, targets = [], []
        for i, pair in enumerate(pairs(student, teacher)):
            s, t = adapters.pool_larger(*pair)
            own = state.params[f"tap{i}"]["mean"]
            means.append(adapters.apply(layers(t.shape[-1]), own, s))
            targets.append(t)
        scales = [state.params[f"tap{i}"]["scale"] for i in range(len(means))]
        return vid_loss(means, scales, targets, epsilon=epsilon), state.memory

    return Objective(init, loss, taps=pairs)


def over_taps(
    loss: Callable[[Maps, Maps], jax.Array], *, equal_channels: bool = False
) -> Objective:
    """An objective without parameters over the pairs of taps behind the stem."""

    def pairs(student, teacher):
        options = {"equal_channels": equal_channels}
        return adapters.paired(student.maps[1:], teacher.maps[1:], **options)

    def init(key, student, teacher):
        del key
        pairs(student, teacher)  # or an error
        return ObjectiveState()

    def apply(state, student, teacher, batch):
        del batch
        return loss(*zip(*pairs(student, teacher), strict=True)), state.memory

    return Objective(init, apply, taps=pairs)
