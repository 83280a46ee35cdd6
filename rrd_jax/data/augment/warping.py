"""Affine maps of images.

A matrix [2, 3] float32 maps the position (x, y, 1) of an output pixel to the position of its input
pixel. Both positions are relative to the center of the image.
"""

import jax
import jax.numpy as jnp

Number = jax.Array | float


def shear_x(amount: Number, height: int, width: int) -> jax.Array:
    """Shifts rows to the left by `amount` times their distance from the upper edge."""
    del width
    return _matrix((1, amount, amount * (height / 2)), (0, 1, 0))


def shear_y(amount: Number, height: int, width: int) -> jax.Array:
    """Shifts columns up by `amount` times their distance from the left edge."""
    del height
    return _matrix((1, 0, 0), (amount, 1, amount * (width / 2)))


def translate_x(pixels: Number, height: int, width: int) -> jax.Array:
    """Shifts pixels to the right."""
    del height, width
    return _matrix((1, 0, -pixels), (0, 1, 0))


def translate_y(pixels: Number, height: int, width: int) -> jax.Array:
    """Shifts pixels down."""
    del height, width
    return _matrix((1, 0, 0), (0, 1, -pixels))


def rotate(degrees: Number, height: int, width: int) -> jax.Array:
    """Rotates counter-clockwise about the center."""
    del height, width
    angle = jnp.deg2rad(jnp.asarray(degrees, jnp.float32))
    return _matrix((jnp.cos(angle), -jnp.sin(angle), 0), (jnp.sin(angle), jnp.cos(angle), 0))


def identity() -> jax.Array:
    """Returns the matrix that leaves pixels unchanged."""
    return _matrix((1, 0, 0), (0, 1, 0))


def _matrix(*rows: tuple) -> jax.Array:
    numbers = [jnp.asarray(number, jnp.float32) for row in rows for number in row]
    return jnp.stack(numbers).reshape(2, 3)


def warp(
    image: jax.Array,
    matrix: jax.Array,
    fill: jax.Array | float = 0,
    *,
    bilinear: bool = False,
) -> jax.Array:
    """Applies an affine map to an image.

    Args:
      image: [H, W, channels] uint8.
      matrix: [2, 3], see the module's docstring.
      fill: value of pixels from outside the image, in [0, 255]; one number, or [channels].
      bilinear: whether to interpolate bilinearly instead of choosing the nearest pixel.

    Returns:
      [H, W, channels] uint8. Without `bilinear`, positions halfway between two pixels are rounded
      to the even pixel, as in PyTorch's grid_sample.
    """
    height, width, _ = image.shape
    x = (jnp.arange(width) - (width - 1) / 2)[None]
    y = (jnp.arange(height) - (height - 1) / 2)[:, None]
    x, y = (row[0] * x + row[1] * y + row[2] for row in matrix.astype(jnp.float32))
    x, y = x + (width - 1) / 2, y + (height - 1) / 2
    fill = jnp.broadcast_to(jnp.asarray(fill, jnp.float32), image.shape)
    if not bilinear:
        pixels, inside = _look_up(image, jnp.round(x), jnp.round(y))
        return jnp.where(inside[..., None], pixels, fill.astype(jnp.uint8))

    left, top = jnp.floor(x), jnp.floor(y)
    across, down = x - left, y - top
    total = jnp.zeros(image.shape, jnp.float32)
    for right in (0, 1):
        for below in (0, 1):
            pixels, inside = _look_up(image, left + right, top + below)
            pixels = jnp.where(inside[..., None], pixels, fill)
            weight = (across if right else 1 - across) * (down if below else 1 - down)
            total += weight[..., None] * pixels
    return jnp.round(total).astype(jnp.uint8)


def _look_up(image: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the pixels at integer positions [H, W], and whether they are inside the image."""
    height, width, channels = image.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = jnp.clip(x, 0, width - 1), jnp.clip(y, 0, height - 1)
    index = (y * width + x).astype(jnp.int32)
    # Without the barrier, the indices would be computed again for each channel.
    index, inside = jax.lax.optimization_barrier((index, inside))
    pixels = (
        jnp.asarray(image).reshape(height * width, channels).at[index].get(mode="promise_in_bounds")
    )
    return pixels, inside
