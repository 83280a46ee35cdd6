"""Random erasing (arXiv 1708.04896), of normalised images."""

import math

import jax
import jax.numpy as jnp

from rrd_jax import errors

ERASED = ("pixels", "colour", "mean")
_AREAS = (0.02, 1 / 3)  # of the image
_ASPECTS = (0.3, 1 / 0.3)  # height over width
_TRIES = 10
_NOISE = 0.4  # of an image, more than the largest box has


def random_erase(
    key: jax.Array, image: jax.Array, probability: float, value: str = "pixels"
) -> jax.Array:
    """The image, or with a probability the image without a random box.

    Of ten boxes the first one that fits is taken; where none does, the image stays as it is.

    Args:
      key: of what is random.
      image: [H, W, channels] float32, normalised.
      probability: of it.
      value: of what is erased: "pixels" for normal noise in each, "colour" for the same normal
        noise in all of them, "mean" for 0.

    Raises:
      InputError: an unknown value.
    """
    errors.lookup("value of random erasing", value, dict.fromkeys(ERASED))
    box_key, noise_key = jax.random.split(key)
    box = draw_box(box_key, image.shape[:2], probability)
    top, left, height, width = jax.lax.optimization_barrier(box)
    y = jnp.arange(image.shape[0])[:, None] - top
    x = jnp.arange(image.shape[1])[None] - left
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return jnp.where(inside[..., None], _values(noise_key, image, y * width + x, value), image)


def draw_box(
    key: jax.Array, shape: tuple[int, int], probability: float
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(top, left, height, width) of a random box in an image of (H, W); of no height for none."""
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


def _values(key: jax.Array, image: jax.Array, place: jax.Array, value: str) -> jax.Array:
    """What takes the place of pixels, whose places are counted within the box."""
    height, width, channels = image.shape
    if value == "mean":
        return jnp.zeros_like(image)
    if value == "colour":
        return jnp.broadcast_to(jax.random.normal(key, (channels,), image.dtype), image.shape)
    # Noise is drawn for a box alone: on a CPU it costs more than all else.
    count = math.ceil(_NOISE * height * width)
    noise = jax.random.normal(key, (count, channels), image.dtype)
    place, noise = jax.lax.optimization_barrier((jnp.clip(place, 0, count - 1), noise))
    return noise.at[place].get(mode="promise_in_bounds")
