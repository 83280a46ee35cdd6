"""Max-pooling of the ImageNet stems, as in PyTorch, with a fast gradient."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import functional


def max_pool(x: jax.Array) -> jax.Array:
    """Computes the maximum over 3x3 windows with stride 2 and padding 1.

    Among equal values, the gradient goes to the first, as in PyTorch and XLA. XLA scatters the
    gradient pixel by pixel. Here, each pixel gathers the gradient from the at most four windows
    that contain it, and the forward pass saves one byte per window instead of the input.

    Args:
      x: [B, H, W, C].

    Returns:
      [B, H/2, W/2, C], rounded up.
    """
    gather = partial(_max_pool, x.shape[1:3])

    def on_cpu(x):
        return gather(functional.wide(x)).astype(x.dtype)

    # According to the estimates of XLA's TPU compiler, its own gradient takes half as many cycles.
    return jax.lax.platform_dependent(x, tpu=_plain, cpu=on_cpu, default=gather)


def _plain(x):
    return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _max_pool(size, x):
    del size
    return _plain(x)


def _forward(size, x):
    height, width = (-(-n // 2) for n in size)
    low = jnp.array(-jnp.inf, x.dtype)
    padded = jax.lax.pad(x, low, ((0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)))
    for position in range(9):
        row, column = divmod(position, 3)
        rows = slice(row, row + 2 * height - 1, 2)
        columns = slice(column, column + 2 * width - 1, 2)
        value = padded[:, rows, columns]
        if position == 0:
            y, best, argmax = value, value, jnp.zeros(value.shape, jnp.int8)
            continue
        keep = best >= value
        best, argmax = jnp.where(keep, best, value), jnp.where(keep, argmax, jnp.int8(position))
        # Unlike `best`, jnp.maximum propagates NaN.
        y = jnp.maximum(y, value)
    return y, argmax


def _backward(size, argmax, gradient):
    batch, height, width, channels = gradient.shape
    padding = ((0, 0), (0, 1), (0, 1), (0, 0))
    argmax, gradient = jnp.pad(argmax, padding), jnp.pad(gradient, padding)

    def grad(position, below=0, right=0):
        """Returns the gradient of the pixel at a position of each window, from the window."""
        windows = (slice(None), slice(below, below + height), slice(right, right + width))
        return jnp.where(argmax[windows] == position, gradient[windows], 0)

    # Window (i, j) is centered on pixel (2i, 2j), and extends one pixel to each side.
    even = [grad(4), grad(5) + grad(3, right=1)]
    corners = grad(8) + grad(6, right=1) + grad(2, below=1) + grad(0, 1, 1)
    odd = [grad(7) + grad(1, below=1), corners]
    pixels = jnp.stack([jnp.stack(even, axis=3), jnp.stack(odd, axis=3)], axis=2)
    pixels = pixels.reshape(batch, 2 * height, 2 * width, channels)
    return (pixels[:, : size[0], : size[1]],)


_max_pool.defvjp(_forward, _backward)
