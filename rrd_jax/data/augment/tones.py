"""Changes of tone: a table says for each of the 256 values of a channel what becomes of it.

A table is [channels, 256] uint8, or [1, 256] for all channels alike.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Number = jax.Array | float
# Of red, green and blue in grey, as torchvision has them; they add up to 0.9999.
_GREY = (0.2989, 0.587, 0.114)


class Statistics(NamedTuple):
    """What tables depend on of an image.

    Attributes:
      counts: [channels, 256] int32, how often each value of a channel is in it.
      mean: [] float32, of its grey.
    """

    counts: jax.Array
    mean: jax.Array


def statistics(image: jax.Array) -> Statistics:
    """Of an image [H, W, channels] uint8."""
    channels = image.shape[-1]
    place = image.reshape(-1, channels).astype(jnp.int32) + 256 * jnp.arange(channels)[None]
    counts = jnp.zeros(256 * channels, jnp.int32).at[place].add(1, mode="promise_in_bounds")
    # Whole numbers a CPU adds up many at once.
    greys = jax.lax.optimization_barrier(grey(image)[..., 0].astype(jnp.int32))
    mean = jnp.mean(jnp.sum(greys, axis=1).astype(jnp.float32)) / image.shape[1]
    return Statistics(counts.reshape(channels, 256), mean)


def look_up(image: jax.Array, table: jax.Array) -> jax.Array:
    """The image [..., channels] uint8 with what a table says of each value."""
    channels = image.shape[-1]
    table = jax.lax.optimization_barrier(jnp.broadcast_to(table, (channels, 256)))
    parts = [
        table[c].at[image[..., c].astype(jnp.int32)].get(mode="promise_in_bounds")
        for c in range(channels)
    ]
    return jnp.stack(parts, axis=-1)


def grey(image: jax.Array) -> jax.Array:
    """[..., 1] float32 of whole numbers: the image [..., 1 or 3] without its colours."""
    image = image.astype(jnp.float32)
    if image.shape[-1] == 1:
        return image
    red, green, blue = (image[..., c : c + 1] * part for c, part in enumerate(_GREY))
    return jnp.floor(red + green + blue)


def smoothed(image: jax.Array) -> jax.Array:
    """float32 of whole numbers: means of 3 x 3 pixels, that in the middle counted five times.

    The edge stays as it is.
    """
    height, width, _ = image.shape
    x = image.astype(jnp.float32)
    if min(height, width) <= 2:
        return x
    around = jax.lax.optimization_barrier(jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge"))
    rows = sum(around[i : i + height].astype(jnp.float32) for i in range(3))
    total = sum(rows[:, i : i + width] for i in range(3)) + 4 * x
    inner = np.pad(np.ones((height - 2, width - 2), bool), 1)[..., None]
    return jnp.where(inner, jnp.round(total / 13), x)


def blended(image: jax.Array, other: jax.Array, factor: Number) -> jax.Array:
    """uint8 of factor * image + (1 - factor) * other; beyond [0, 1] it leads away from one of them.

    Fractions are dropped, and what leaves [0, 255] is cut off.
    """
    image = image.astype(jnp.float32)
    mixed = image + (1 - factor) * (other - image)
    return jnp.clip(mixed, 0, 255).astype(jnp.uint8)


def identity() -> jax.Array:
    """Each value as it is."""
    return jnp.arange(256, dtype=jnp.uint8)[None]


def brightness(stats: Statistics, factor: Number) -> jax.Array:
    """Values times a factor >= 0."""
    del stats
    return jnp.clip(identity() * jnp.asarray(factor, jnp.float32), 0, 255).astype(jnp.uint8)


def contrast(stats: Statistics, factor: Number) -> jax.Array:
    """Distances from the mean of the grey image, times a factor >= 0."""
    values = identity() * jnp.asarray(factor, jnp.float32) + (1 - factor) * stats.mean
    return jnp.clip(values, 0, 255).astype(jnp.uint8)


def posterize(stats: Statistics, bits: Number) -> jax.Array:
    """The upper bits alone, 0 to 8 of them."""
    del stats
    dropped = 8 - jnp.asarray(bits).astype(jnp.int32)
    return (jnp.arange(256) >> dropped << dropped).astype(jnp.uint8)[None]


def solarize(stats: Statistics, threshold: Number) -> jax.Array:
    """Values at or above a threshold are inverted."""
    del stats
    values = identity()
    return jnp.where(values >= threshold, 255 - values, values)


def solarize_add(stats: Statistics, amount: Number) -> jax.Array:
    """Values below 128 grow by an amount >= 0, whose fraction is dropped."""
    del stats
    values = jnp.arange(256)
    grown = jnp.clip(values + jnp.asarray(amount).astype(jnp.int32), 0, 255)
    return jnp.where(values < 128, grown, values).astype(jnp.uint8)[None]


def autocontrast(stats: Statistics, amount: Number = 0) -> jax.Array:
    """Each channel is stretched until it reaches from 0 to 255; one of a single value stays."""
    del amount
    is_there, values = stats.counts > 0, jnp.arange(256)[None]
    low = jnp.min(jnp.where(is_there, values, 255), axis=1, keepdims=True)
    high = jnp.max(jnp.where(is_there, values, 0), axis=1, keepdims=True)
    step = jnp.maximum(high - low, 1).astype(jnp.float32) * (1 / 255)
    # Else XLA multiplies by 1 / step, which rounds otherwise.
    step = jax.lax.optimization_barrier(jnp.broadcast_to(step, stats.counts.shape))
    stretched = jnp.clip((values - low) / step, 0, 255)
    return jnp.where(low == high, values, stretched).astype(jnp.uint8)


def equalize(stats: Statistics, amount: Number = 0) -> jax.Array:
    """All values of a channel become about as frequent, by Pillow's arithmetic of whole numbers."""
    del amount
    counts, values = stats.counts, jnp.arange(256)[None]
    last = jnp.max(jnp.where(counts > 0, values, 0), axis=1, keepdims=True)
    rest = jnp.sum(counts, axis=1, keepdims=True) - jnp.take_along_axis(counts, last, axis=1)
    step = rest // 255
    below = jnp.cumsum(counts, axis=1) - counts
    equal = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step == 0, values, equal).astype(jnp.uint8)


def invert(stats: Statistics, amount: Number = 0) -> jax.Array:
    """Dark becomes light."""
    del stats, amount
    return 255 - identity()
