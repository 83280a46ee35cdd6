"""Changes of tone by lookup tables for the 256 values of a channel.

A table is [channels, 256] uint8, or [1, 256] for all channels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Number = jax.Array | float
# torchvision's weights of red, green and blue in gray; their sum is 0.9999.
_GREY = (0.2989, 0.587, 0.114)


class Statistics(NamedTuple):
    """Statistics of an image that tables depend on.

    Attributes:
      counts: [channels, 256] int32, histogram of each channel.
      mean: [] float32, mean of the grayscale image.
    """

    counts: jax.Array
    mean: jax.Array


def statistics(image: jax.Array) -> Statistics:
    """Returns the statistics of an image [H, W, channels] uint8."""
    channels = image.shape[-1]
    index = image.reshape(-1, channels).astype(jnp.int32) + 256 * jnp.arange(channels)[None]
    counts = jnp.zeros(256 * channels, jnp.int32).at[index].add(1, mode="promise_in_bounds")
    # A CPU vectorizes sums of integers.
    grays = jax.lax.optimization_barrier(grey(image)[..., 0].astype(jnp.int32))
    mean = jnp.mean(jnp.sum(grays, axis=1).astype(jnp.float32)) / image.shape[1]
    return Statistics(counts.reshape(channels, 256), mean)


def look_up(image: jax.Array, table: jax.Array) -> jax.Array:
    """Replaces the values of an image [..., channels] uint8 by those in a table."""
    channels = image.shape[-1]
    table = jax.lax.optimization_barrier(jnp.broadcast_to(table, (channels, 256)))
    parts = [
        table[c].at[image[..., c].astype(jnp.int32)].get(mode="promise_in_bounds")
        for c in range(channels)
    ]
    return jnp.stack(parts, axis=-1)


def grey(image: jax.Array) -> jax.Array:
    """Converts an image [..., 1 or 3] to gray [..., 1], whole numbers in float32."""
    image = image.astype(jnp.float32)
    if image.shape[-1] == 1:
        return image
    red, green, blue = (image[..., c : c + 1] * part for c, part in enumerate(_GREY))
    return jnp.floor(red + green + blue)


def smoothed(image: jax.Array) -> jax.Array:
    """Returns means of 3x3 pixels with weight 5 for the center, whole numbers in float32.

    The pixels at the edge are unchanged.
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
    """Returns factor * image + (1 - factor) * other as uint8; factors above 1 extrapolate.

    The result is clipped to [0, 255] and rounded down.
    """
    image = image.astype(jnp.float32)
    mixed = image + (1 - factor) * (other - image)
    return jnp.clip(mixed, 0, 255).astype(jnp.uint8)


def identity() -> jax.Array:
    """Returns the table of unchanged values."""
    return jnp.arange(256, dtype=jnp.uint8)[None]


def brightness(stats: Statistics, factor: Number) -> jax.Array:
    """Multiplies values by a factor >= 0."""
    del stats
    return jnp.clip(identity() * jnp.asarray(factor, jnp.float32), 0, 255).astype(jnp.uint8)


def contrast(stats: Statistics, factor: Number) -> jax.Array:
    """Multiplies differences from the mean of the grayscale image by a factor >= 0."""
    values = identity() * jnp.asarray(factor, jnp.float32) + (1 - factor) * stats.mean
    return jnp.clip(values, 0, 255).astype(jnp.uint8)


def posterize(stats: Statistics, bits: Number) -> jax.Array:
    """Keeps the upper bits of values, 0 to 8 bits."""
    del stats
    dropped = 8 - jnp.asarray(bits).astype(jnp.int32)
    return (jnp.arange(256) >> dropped << dropped).astype(jnp.uint8)[None]


def solarize(stats: Statistics, threshold: Number) -> jax.Array:
    """Inverts values at or above a threshold."""
    del stats
    values = identity()
    return jnp.where(values >= threshold, 255 - values, values)


def solarize_add(stats: Statistics, amount: Number) -> jax.Array:
    """Adds an amount >= 0, rounded down, to values below 128."""
    del stats
    values = jnp.arange(256)
    grown = jnp.clip(values + jnp.asarray(amount).astype(jnp.int32), 0, 255)
    return jnp.where(values < 128, grown, values).astype(jnp.uint8)[None]


def autocontrast(stats: Statistics, amount: Number = 0) -> jax.Array:
    """Stretches each channel to [0, 255]; keeps channels with a single value unchanged."""
    del amount
    is_present, values = stats.counts > 0, jnp.arange(256)[None]
    low = jnp.min(jnp.where(is_present, values, 255), axis=1, keepdims=True)
    high = jnp.max(jnp.where(is_present, values, 0), axis=1, keepdims=True)
    step = jnp.maximum(high - low, 1).astype(jnp.float32) * (1 / 255)
    # Without the barrier, XLA would multiply by 1 / step, which rounds differently.
    step = jax.lax.optimization_barrier(jnp.broadcast_to(step, stats.counts.shape))
    stretched = jnp.clip((values - low) / step, 0, 255)
    return jnp.where(low == high, values, stretched).astype(jnp.uint8)


def equalize(stats: Statistics, amount: Number = 0) -> jax.Array:
    """Equalizes the histogram of each channel with Pillow's integer arithmetic."""
    del amount
    counts, values = stats.counts, jnp.arange(256)[None]
    last = jnp.max(jnp.where(counts > 0, values, 0), axis=1, keepdims=True)
    rest = jnp.sum(counts, axis=1, keepdims=True) - jnp.take_along_axis(counts, last, axis=1)
    step = rest // 255
    below = jnp.cumsum(counts, axis=1) - counts
    equal = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step == 0, values, equal).astype(jnp.uint8)


def invert(stats: Statistics, amount: Number = 0) -> jax.Array:
    """Inverts values."""
    del stats, amount
    return 255 - identity()
