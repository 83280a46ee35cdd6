"""Colours and sharpness changed at random: colour jitter, grey images, Gaussian blur.

Images are [H, W, channels] uint8, of one channel or three; `jax.vmap` maps over batches of images
and of keys. The reference of what is done with given amounts is torchvision's
`transforms.v2.functional` on tensors of uint8; values differ by 1 at most.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.data.augment import tones
from rrd_jax.data.augment.tones import Number

_SIGMAS = (0.1, 2.0)  # pixels, of blur


def hue(image: jax.Array, turn: Number) -> jax.Array:
    """The image with its hues turned, in HSV; a grey image stays as it is.

    Args:
      image: [H, W, channels] uint8.
      turn: part of a whole turn, in [-0.5, 0.5].
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
    """The image without its colours, with as many channels as it has."""
    return jnp.broadcast_to(tones.grey(image).astype(jnp.uint8), image.shape)


def gaussian_blur(image: jax.Array, sigma: Number, size: int) -> jax.Array:
    """The image blurred, mirrored at its edges.

    Args:
      image: [H, W, channels] uint8, larger than half of `size`.
      sigma: standard deviation in pixels, > 0.
      size: pixels along a side that are averaged, odd.
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
    """Raises an InputError for ranges of `jitter` whose last, of hue, is above half a turn."""
    if ranges[3] > 0.5:
        raise errors.InputError(
            f"data.jitter is {tuple(ranges)}, but must be ranges of brightness, contrast,"
            " saturation and hue, the last at most 0.5"
        )


def jitter(
    key: jax.Array, image: jax.Array, ranges: Sequence[float], probability: float = 1.0
) -> jax.Array:
    """Colour jitter: brightness, contrast and saturation in random order, and then hue.

    Factors are uniform in [max(0, 1 - range), 1 + range], and the turn of the hue in
    [-range, range]. (torchvision's order of all four is random.)

    Args:
      key: of what is random.
      image: [H, W, channels] uint8.
      ranges: of brightness, contrast, saturation and hue, >= 0, of hue at most 0.5.
      probability: of it; other images stay as they are.
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
    """Brightness, contrast or saturation, by number, times a factor."""
    grey = tones.grey(image)
    flat = jnp.where(which == 0, 0.0, tones.statistics(image).mean)
    return tones.blended(image, jnp.where(which == 2, grey, flat), factor)


def random_grey(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """The image, or with a probability its `grey`."""
    return jnp.where(jax.random.bernoulli(key, probability), grey(image), image)


def random_blur(key: jax.Array, image: jax.Array, probability: Number) -> jax.Array:
    """The image, or with a probability its `gaussian_blur`, as in SimCLR (arXiv 2002.05709).

    The standard deviation is uniform in [0.1, 2] pixels, over a tenth of the image's side.
    """
    applies, place = jax.lax.optimization_barrier(jax.random.uniform(key, (2,)))
    low, high = _SIGMAS
    size = 2 * (min(image.shape[:2]) // 20) + 1
    blurred = gaussian_blur(image, low + place * (high - low), max(3, size))
    return jnp.where(applies < probability, blurred, image)


def random_solarize(key: jax.Array, image: jax.Array, probability: Number) -> jax.Array:
    """The image, or with a probability one whose values from 128 are turned over (2104.14294)."""
    turned = jnp.where(image < 128, image, 255 - image)
    return jnp.where(jax.random.uniform(key) < probability, turned, image)
