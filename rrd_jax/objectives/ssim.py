"""SSIM: structural similarity of feature maps (arXiv 2211.13133)."""

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
    """Computes one minus the structural similarity of maps, per channel and in sliding windows.

        SSIM = (2 m_s m_t + C1) (2 v_st + C2) / ((m_s^2 + m_t^2 + C1) (v_s + v_t + C2))
        loss = sum over taps of mean_hwc (1 - SSIM)

    m, v and v_st are means, variances and covariance under a Gaussian window, C1 = 0.01^2 and
    C2 = 0.03^2. Maps are first rescaled to [0, 1] by the minimum and maximum of each example. At
    the border the window is truncated, so that small maps can be compared too.

    Args:
      adapted: [B, H, W, C], the student's maps with the teacher's channels.
      teacher: [B, H', W', C], constant for gradients; the larger map of a pair is pooled first.
      window: height and width of the window, an odd number.
      deviation: standard deviation of the Gaussian, in positions, > 0.

    Returns:
      [B] losses, in [0, 2] per tap.

    Raises:
      InputError: the window is even, or a value is out of range.

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
    """Builds SSIM on all taps after the stem; see `ssim_loss`.

    If channels differ, a trained 1x1 convolution adapts the student's map.
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
    """Rescales each example of [B, H, W, C] to [0, 1]; constant examples become 0."""
    low, high = _extreme(x, jnp.min, jnp.argmin), _extreme(x, jnp.max, jnp.argmax)
    width = jnp.where(high > low, high - low, 1.0)
    return (x - low) / width


def _extreme(x: jax.Array, reduce: Callable, argument: Callable) -> jax.Array:
    """Returns the extreme of each example, [B, 1, 1, 1], with gradient to its first position.

    The extreme is selected by index: the gradient of jnp.min and jnp.max compares x with the
    extreme, and divides by 0 if the compiler computes x twice with different rounding, so that no
    value is equal. The pixel is located before the channel, since in XLA an argmax is ten times as
    slow as a max.

    Args:
      x: [B, H, W, C].
      reduce: jnp.min or jnp.max.
      argument: jnp.argmin or jnp.argmax.
    """
    pixels = x.reshape(len(x), -1, x.shape[-1])
    pixel = argument(reduce(jax.lax.stop_gradient(pixels), axis=2), axis=1)
    channels = jnp.take_along_axis(pixels, pixel[:, None, None], axis=1)[:, 0]
    channel = argument(channels, axis=1)
    return jnp.take_along_axis(channels, channel[:, None], axis=1)[..., None, None]


def _windows(size: int, window: int, deviation: float) -> np.ndarray:
    """Returns [size, size], whose row i has the weights of the window around i, with sum 1."""
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    weights = np.exp(-0.5 * (distance / deviation) ** 2) * (abs(distance) <= window // 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


RECORD = Record(
    ssim,
    "local structure of adapted maps",
    "arXiv 2211.13133",
    verified=False,
    needs_classes=False,
)
