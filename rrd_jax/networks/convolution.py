"""How a convolution is computed: the same numbers, in the form that the device computes fastest."""

from functools import partial

import jax
import jax.numpy as jnp

from rrd_jax import functional


def convolve(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """Convolution with PyTorch's symmetric padding of (kernel - 1) / 2.

    Args:
      x: [B, H, W, channels].
      kernel: [size, size, channels / groups, features], of x's type; its size is odd.
      stride: of both axes.
    """
    whole = partial(_whole, stride=stride)
    groups = x.shape[-1] // kernel.shape[2]
    if groups == 1:
        return whole(x, kernel)
    # On a CPU XLA computes grouped convolutions, and even more so their gradients, naively.
    depthwise = groups == x.shape[-1] == kernel.shape[-1]
    on_cpu = partial(_by_place if depthwise else _by_group, stride=stride)
    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=whole)


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


def _whole(x, kernel, *, stride):
    pad = (kernel.shape[0] - 1) // 2
    return functional.convolve(x, kernel, stride=stride, padding=(pad, pad))


def _by_place(x, kernel, *, stride):
    """A depthwise convolution, as a sum over places of the kernel of shifted images times it."""
    size = kernel.shape[0]
    pad = (size - 1) // 2
    padded = jnp.pad(x.astype(jnp.float32), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = ((n + 2 * pad - size) // stride + 1 for n in x.shape[1:3])
    y = jnp.zeros((), jnp.float32)
    for row in range(size):
        for column in range(size):
            rows = slice(row, row + stride * (height - 1) + 1, stride)
            columns = slice(column, column + stride * (width - 1) + 1, stride)
            factor = kernel[row, column, 0].astype(jnp.float32)
            y += padded[:, rows, columns] * functional.per_channel(factor, padded)
    return y.astype(x.dtype)


def _by_group(x, kernel, *, stride):
    """A convolution for each group of channels."""
    groups = x.shape[-1] // kernel.shape[2]
    parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
    return jnp.concatenate([_whole(*part, stride=stride) for part in parts], axis=-1)
