"""SSIM: the structural similarity of images, between feature maps (arXiv 2211.13133)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import adapters
from rrd_jax.objectives.parts.adapters import Layer
from rrd_jax.objectives.parts.maps import Maps, after_stem
from rrd_jax.objectives.parts.pooling import blend, pool_larger


def ssim_loss(
    adapted: Maps, teacher: Maps, *, window: int = 11, deviation: float = 1.5
) -> jax.Array:
    """One minus the structural similarity of maps, channel by channel, in windows around a place.

        SSIM = (2 m_s m_t + C1) (2 v_st + C2) / ((m_s^2 + m_t^2 + C1) (v_s + v_t + C2))
        loss = sum over taps of mean_hwc (1 - SSIM)

    m, v and v_st are means, variances and covariance under a Gaussian window, C1 = 0.01^2 and
    C2 = 0.03^2. Maps are first brought to [0, 1] by their own least and largest value. At the
    border the window is what is left of it, so that it also fits small maps.

    Args:
      adapted: [B, H, W, C], with the teacher's channels.
      teacher: [B, H', W', C], constant for gradients; the larger of a pair is pooled first.
      window: odd, its height and width.
      deviation: > 0, of the Gaussian, in places.

    Returns:
      [B] losses, in [0, 2] for each tap.

    Raises:
      InputError: an even window, or a value out of range.

    References:
      de Rijk et al., arXiv 2211.13133; Wang et al., IEEE Transactions on Image Processing 2004.
    """
    _check_window(window, deviation)
    total = 0.0
    for pair in zip(adapted, teacher, strict=True):
        s, t = map(_rescale, pool_larger(*pair))
        t = jax.lax.stop_gradient(t)
        rows, columns = (_windows(size, window, deviation) for size in s.shape[1:3])
        mean_s, mean_t, squares, product = (
            blend(x, rows, columns) for x in (s, t, s * s + t * t, s * t)
        )
        variances = squares - jnp.square(mean_s) - jnp.square(mean_t)
        covariance = product - mean_s * mean_t
        c1, c2 = 0.01**2, 0.03**2
        similarity = (2 * mean_s * mean_t + c1) * (2 * covariance + c2)
        similarity /= (jnp.square(mean_s) + jnp.square(mean_t) + c1) * (variances + c2)
        total += 1 - jnp.mean(similarity, axis=(1, 2, 3))
    return total


def ssim(*, window: int = 11, deviation: float = 1.5) -> Objective:
    """SSIM over all taps behind the stem; where channels differ, of a 1x1 convolution's maps.

    See `ssim_loss` for the options.
    """
    _check_window(window, deviation)

    def layers(student, teacher):
        if student.shape[-1] == teacher.shape[-1]:
            return ()
        return (Layer(teacher.shape[-1], bias=True, norm=False, slope=1.0),)

    def init(key, student, teacher):
        pairs = after_stem(student, teacher)
        stacks = [layers(s, t) for s, t in pairs]
        channels = [s.shape[-1] for s, _ in pairs]
        return ObjectiveState(params=adapters.init_per_tap(key, stacks, channels))

    def loss(state, student, teacher, batch):
        del batch
        adapted, targets = [], []
        for i, (s, t) in enumerate(after_stem(student, teacher)):
            adapted.append(adapters.apply(layers(s, t), state.params[f"tap{i}"], s))
            targets.append(t)
        return ssim_loss(adapted, targets, window=window, deviation=deviation), state.memory

    return Objective(init, loss, taps=after_stem)


def _check_window(window: int, deviation: float) -> None:
    errors.check_positive(window=window, deviation=deviation)
    if window % 2 == 0:
        raise errors.InputError(f"window is {window}, but must be odd")


def _rescale(x: jax.Array) -> jax.Array:
    """Each example of [B, H, W, C] to [0, 1]; a constant one to 0."""
    low, high = _extreme(x, jnp.min, jnp.argmin), _extreme(x, jnp.max, jnp.argmax)
    width = jnp.where(high > low, high - low, 1.0)
    return (x - low) / width


def _extreme(x: jax.Array, value: Callable, place: Callable) -> jax.Array:
    """The extreme of each example, [B, 1, 1, 1]; its gradient goes to the first such place.

    By place: the gradient of jnp.min and jnp.max compares x with the extreme, and divides by 0
    where the compiler computes x twice with unlike rounding, so that nothing is equal. First the
    pixel, then the channel: XLA finds a place ten times as slowly as a value.
    """
    pixels = x.reshape(len(x), -1, x.shape[-1])
    pixel = place(value(jax.lax.stop_gradient(pixels), axis=2), axis=1)
    channels = jnp.take_along_axis(pixels, pixel[:, None, None], axis=1)[:, 0]
    channel = place(channels, axis=1)
    return jnp.take_along_axis(channels, channel[:, None], axis=1)[..., None, None]


def _windows(size: int, window: int, deviation: float) -> np.ndarray:
    """[size, size]: in row i the weights of the places around i, with sum 1."""
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    weights = np.exp(-0.5 * (distance / deviation) ** 2) * (abs(distance) <= window // 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


RECORD = Record(
    ssim,
    "adapted maps, by local structure",
    "arXiv 2211.13133",
    verified=False,
    needs_classes=False,
)
