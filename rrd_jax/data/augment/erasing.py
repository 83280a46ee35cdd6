"""Random erasing (arXiv 1708.04896) of normalized images."""

import math

import jax
import jax.numpy as jnp

from rrd_jax import errors

ERASED = ("pixels", "colour", "mean")
# Range of a box's area relative to the image.
_AREAS = (0.02, 1 / 3)
# Range of a box's height divided by its width.
_ASPECTS = (0.3, 1 / 0.3)
_TRIES = 10
# Number of noise values relative to the image's pixels, enough for the largest box.
_NOISE = 0.4


def random_erase(
    key: jax.Array, image: jax.Array, probability: float, value: str = "pixels"
) -> jax.Array:
    """Erases a random box of an image with a probability.

    Ten boxes are drawn, and the first box that fits is erased. If none fits, the image is returned
    unchanged.

    Args:
      key: random key.
      image: [H, W, channels] float32, normalized.
      probability: probability that a box is erased.
      value: values of erased pixels: "pixels" for independent normal noise, "colour" for one normal
        value per channel, "mean" for 0.

    Raises:
      InputError: the value is unknown.
    """
    errors.lookup("value of random erasing", value, dict.fromkeys(ERASED))
    box_key, noise_key = jax.random.split(key)
    box = draw_box(box_key, image.shape[:2], probability)
    top, left, height, width = jax.lax.optimization_barrier(box)
    y = jnp.arange(image.shape[0])[:, None] - top
    x = jnp.arange(image.shape[1])[None] - left
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return jnp.where(inside[..., None], _values(noise_key, image, y * width + x, value), image)


def random_cutout(key: jax.Array, image: jax.Array, side: float, value: jax.Array) -> jax.Array:
    """Fills a random square of an image with a color; see FixMatch, arXiv 2001.07685.

    Args:
      key: random key.
      image: [H, W, channels].
      side: largest side of the square relative to the image's width, in [0, 1]; the side is uniform
        from 0.
      value: [channels], the color.
    """
    height, width, _ = image.shape
    size, y, x = jax.random.uniform(key, (3,))
    size *= side * width
    top, left = (jnp.maximum(jnp.floor(z - size / 2), 0) for z in (y * height, x * width))
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]
    # Both ends belong to the square.
    inside = (rows >= top) & (rows <= top + size) & (columns >= left) & (columns <= left + size)
    is_filled = inside[..., None] & (size > 0)
    return jnp.where(is_filled, value.astype(image.dtype)[None, None], image)


def draw_box(
    key: jax.Array, shape: tuple[int, int], probability: float
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns (top, left, height, width) of a random box in an (H, W) image; height 0 for none."""
    numbers = jax.random.uniform(key, (2 * _TRIES + 3,))
    areas, aspects = numbers[3 : 3 + _TRIES], numbers[3 + _TRIES :]
    areas = (_AREAS[0] + areas * (_AREAS[1] - _AREAS[0])) * (shape[0] * shape[1])
    low, high = map(math.log, _ASPECTS)
    aspects = jnp.exp(low + aspects * (high - low))
    heights, widths = jnp.round(jnp.sqrt(areas * aspects)), jnp.round(jnp.sqrt(areas / aspects))
    fits = (heights < shape[0]) & (widths < shape[1])
    first = jnp.argmax(fits)
    height, width = heights[first].astype(jnp.int32), widths[first].astype(jnp.int32)
    applies = fits[first] & (numbers[0] < probability)
    # A uniform number can round up to 1.
    top = jnp.floor(numbers[1] * (shape[0] - height + 1)).astype(jnp.int32)
    left = jnp.floor(numbers[2] * (shape[1] - width + 1)).astype(jnp.int32)
    top, left = jnp.minimum(top, shape[0] - height), jnp.minimum(left, shape[1] - width)
    return top, left, jnp.where(applies, height, 0), width


def _values(key: jax.Array, image: jax.Array, index: jax.Array, value: str) -> jax.Array:
    """Returns the values of erased pixels; `index` [H, W] numbers the pixels of the box."""
    height, width, channels = image.shape
    if value == "mean":
        return jnp.zeros_like(image)
    if value == "colour":
        return jnp.broadcast_to(jax.random.normal(key, (channels,), image.dtype), image.shape)
    # Drawing noise dominates the cost on a CPU, so noise is drawn for the box only.
    count = math.ceil(_NOISE * height * width)
    noise = jax.random.normal(key, (count, channels), image.dtype)
    index, noise = jax.lax.optimization_barrier((jnp.clip(index, 0, count - 1), noise))
    return noise.at[index].get(mode="promise_in_bounds")
