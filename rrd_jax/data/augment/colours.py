"""Random changes of color and sharpness: color jitter, grayscale, Gaussian blur, solarization.

Images are [H, W, channels] uint8 with one or three channels; `jax.vmap` maps over batches of images
and of keys. The reference is torchvision's `transforms.v2.functional` on uint8 tensors; for equal
amounts, values differ by at most 1.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.data.augment import tones
from rrd_jax.data.augment.tones import Number

# Range of the blur's standard deviation in pixels.
_SIGMAS = (0.1, 2.0)


def hue(image: jax.Array, turn: Number) -> jax.Array:
    """Rotates the hue of an image in HSV; returns an image with one channel unchanged.

    Args:
      image: [H, W, channels] uint8.
      turn: rotation in [-0.5, 0.5], as a fraction of a full turn.
    """
    if image.shape[-1] == 1:
        return image
    red, green, blue = (image[..., c].astype(jnp.float32) / 255 for c in range(3))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    scale = 1 / jnp.where(chroma == 0, 1, chroma)
    sixths = jnp.where(
        value == red,
        (green - blue) * scale,
        jnp.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale),
    )
    turned = jnp.stack([first + sixths + 6 * turn for first in (5, 3, 1)], axis=-1)
    turned -= 6 * jnp.floor(turned / 6)
    less = jnp.clip(jnp.minimum(turned, 4 - turned), 0, 1)
    result = value[..., None] - chroma[..., None] * less
    return (jnp.clip(result, 0, 1) * 255.999).astype(jnp.uint8)


def grey(image: jax.Array) -> jax.Array:
    """Converts an image to grayscale; the number of channels stays the same."""
    return jnp.broadcast_to(tones.grey(image).astype(jnp.uint8), image.shape)


def gaussian_blur(image: jax.Array, sigma: Number, size: int) -> jax.Array:
    """Blurs an image, with reflection at its edges.

    Args:
      image: [H, W, channels] uint8; height and width exceed half of `size`.
      sigma: standard deviation in pixels, > 0.
      size: side of the kernel in pixels, odd.
    """
    half, (height, width, _) = size // 2, image.shape
    weights = jax.nn.softmax(-jnp.square(jnp.arange(-half, half + 1) / sigma) / 2)
    sides = ((half, half), (half, half), (0, 0))
    around = jax.lax.optimization_barrier(jnp.pad(image, sides, mode="reflect"))
    rows = sum(weights[i] * around[i : i + height].astype(jnp.float32) for i in range(size))
    rows = jax.lax.optimization_barrier(rows)
    total = sum(weights[i] * rows[:, i : i + width] for i in range(size))
    return jnp.round(total).astype(jnp.uint8)


def check_jitter(ranges: Sequence[float]) -> None:
    """Raises an InputError if the hue range of `jitter` exceeds half a turn."""
    if ranges[3] > 0.5:
        raise errors.InputError(
            f"data.jitter is {tuple(ranges)}, but must be ranges of brightness, contrast,"
            " saturation and hue, the last at most 0.5"
        )


def jitter(
    key: jax.Array, image: jax.Array, ranges: Sequence[float], probability: float = 1.0
) -> jax.Array:
    """Applies color jitter: brightness, contrast and saturation in random order, then hue.

    Factors are uniform in [max(0, 1 - range), 1 + range], the rotation of the hue is uniform in
    [-range, range]. In torchvision, the order of all four is random.

    Args:
      key: random key.
      image: [H, W, channels] uint8.
      ranges: ranges of brightness, contrast, saturation and hue, >= 0; hue at most 0.5.
      probability: probability that the image is changed.
    """
    numbers = jax.lax.optimization_barrier(jax.random.uniform(key, (8,)))
    low = [max(0.0, 1 - r) for r in ranges[:3]]
    high = [1 + r for r in ranges[:3]]
    applies = numbers[0] < probability
    factors = jnp.asarray(low) + numbers[1:4] * (jnp.asarray(high) - jnp.asarray(low))
    factors = jnp.where(applies, factors, 1.0)
    if any(ranges[:3]):
        for which in jnp.argsort(numbers[4:7]):
            image = jax.lax.optimization_barrier(_enhanced(image, which, factors[which]))
    if not ranges[3]:
        return image
    turn = ranges[3] * (2 * numbers[7] - 1)
    return jnp.where(applies, hue(image, turn), image)


def _enhanced(image: jax.Array, which: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies brightness (0), contrast (1) or saturation (2) by a factor."""
    grey = tones.grey(image)
    flat = jnp.where(which == 0, 0.0, tones.statistics(image).mean)
    return tones.blended(image, jnp.where(which == 2, grey, flat), factor)


def random_grey(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """Converts an image to grayscale with a probability."""
    return jnp.where(jax.random.bernoulli(key, probability), grey(image), image)


def random_blur(key: jax.Array, image: jax.Array, probability: Number) -> jax.Array:
    """Blurs an image with a probability, as in SimCLR (arXiv 2002.05709).

    The standard deviation is uniform in [0.1, 2] pixels. The kernel covers a tenth of the image's
    shorter side, but at least 3 pixels.
    """
    applies, fraction = jax.lax.optimization_barrier(jax.random.uniform(key, (2,)))
    low, high = _SIGMAS
    size = 2 * (min(image.shape[:2]) // 20) + 1
    blurred = gaussian_blur(image, low + fraction * (high - low), max(3, size))
    return jnp.where(applies < probability, blurred, image)


def random_solarize(key: jax.Array, image: jax.Array, probability: Number) -> jax.Array:
    """Inverts values from 128 on with a probability, as in DINO (arXiv 2104.14294)."""
    turned = jnp.where(image < 128, image, 255 - image)
    return jnp.where(jax.random.uniform(key) < probability, turned, image)
