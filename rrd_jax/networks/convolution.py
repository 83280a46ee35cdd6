"""Convolutions with PyTorch's padding, and the space-to-depth form of the stem."""

import jax
import jax.numpy as jnp

from rrd_jax import functional


def convolve(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """Computes a convolution with PyTorch's symmetric padding of (kernel - 1) / 2.

    Args:
      x: [B, H, W, channels].
      kernel: [size, size, channels / groups, features], of x's type. The size is odd, or equal to
        the stride, in which case the windows do not overlap and are not padded.
      stride: stride of both axes.
    """
    size = kernel.shape[0]
    pad = 0 if size == stride else (size - 1) // 2
    return functional.convolve(x, kernel, stride=stride, padding=(pad, pad))


def convolve_pairs(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes a 7x7 convolution of stride 2 as a 4x4 one of stride 1 on blocks of 2x2 pixels.

    The blocks have four times as many channels, so that wide matrix units are used better than by
    the three channels of an image.

    Args:
      x: [B, H, W, channels].
      kernel: [7, 7, channels, features].
    """
    # Odd heights and widths are padded to even ones.
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
    # The window around pixel 2i covers the rows 2i - 3 to 2i + 3. With a leading zero, it covers
    # the pairs i - 2 to i + 1.
    kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(4, 2, 4, 2, channels, -1).swapaxes(1, 2)
    return jax.lax.conv_general_dilated(
        x.reshape(*x.shape[:3], 4 * channels),
        kernel.reshape(4, 4, 4 * channels, -1),
        window_strides=(1, 1),
        padding=((2, 1), (2, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
