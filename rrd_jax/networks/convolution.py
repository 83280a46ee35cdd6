"""Convolutions of networks: PyTorch's padding, and the stem on squares of pixels."""

import jax
import jax.numpy as jnp

from rrd_jax import functional


def convolve(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """Convolution with PyTorch's symmetric padding of (kernel - 1) / 2.

    Args:
      x: [B, H, W, channels].
      kernel: [size, size, channels / groups, features], of x's type; its size is odd, or the
        stride: then squares of pixels that do not overlap are read, without padding.
      stride: of both axes.
    """
    size = kernel.shape[0]
    pad = 0 if size == stride else (size - 1) // 2
    return functional.convolve(x, kernel, stride=stride, padding=(pad, pad))


def convolve_pairs(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 7x7 convolution of stride 2, as a 4x4 one of stride 1 on squares of 2x2 pixels.

    The squares have four times the channels. Matrix units that take many channels at once are idle
    less than with the three of an image.

    Args:
      x: [B, H, W, channels].
      kernel: [7, 7, channels, features].
    """
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))  # of odd images
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
    # Around pixel 2i lie the rows 2i - 3 to 2i + 3; with a zero before them, pairs i - 2 to i + 1.
    kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(4, 2, 4, 2, channels, -1).swapaxes(1, 2)
    return jax.lax.conv_general_dilated(
        x.reshape(*x.shape[:3], 4 * channels),
        kernel.reshape(4, 4, 4 * channels, -1),
        window_strides=(1, 1),
        padding=((2, 1), (2, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
