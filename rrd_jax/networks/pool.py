"""Max-pooling of the ImageNet stems: PyTorch's, with a gradient that costs little."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import functional


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of 3x3 with stride 2 and padding 1: [B, H, W, C] to [B, H/2, W/2, C], rounded up.

    The gradient goes to the first of equals, as PyTorch's and XLA's does. XLA scatters it, pixel by
    pixel; here each pixel collects it from the at most four windows that it is in, and the forward
    pass leaves a byte a window for that in place of its input.
    """
    # By the estimates of XLA's TPU compiler, there its own takes half of the cycles of this one.
    collected = partial(_max_pool, x.shape[1:3])

    def on_cpu(x):
        return collected(functional.wide(x)).astype(x.dtype)

    return jax.lax.platform_dependent(x, tpu=_plain, cpu=on_cpu, default=collected)


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
    for k in range(9):
        row, column = divmod(k, 3)
        rows = slice(row, row + 2 * height - 1, 2)
        columns = slice(column, column + 2 * width - 1, 2)
        value = padded[:, rows, columns]
        if k == 0:
            y, best, place = value, value, jnp.zeros(value.shape, jnp.int8)
            continue
        keep = best >= value
        best, place = jnp.where(keep, best, value), jnp.where(keep, place, jnp.int8(k))
        y = jnp.maximum(y, value)  # unlike the best, it keeps a NaN
    return y, place


def _backward(size, place, gradient):
    batch, height, width, channels = gradient.shape
    more = ((0, 0), (0, 1), (0, 1), (0, 0))
    place, gradient = jnp.pad(place, more), jnp.pad(gradient, more)

    def of(k, below=0, right=0):
        """What pixels get as place k of their own window, or the one below or to the right."""
        windows = (slice(None), slice(below, below + height), slice(right, right + width))
        return jnp.where(place[windows] == k, gradient[windows], 0)

    # Window (i, j) is around pixel (2i, 2j), and reaches one pixel further on each side.
    even = [of(4), of(5) + of(3, right=1)]
    odd = [of(7) + of(1, below=1), of(8) + of(6, right=1) + of(2, below=1) + of(0, 1, 1)]
    pixels = jnp.stack([jnp.stack(even, axis=3), jnp.stack(odd, axis=3)], axis=2)
    pixels = pixels.reshape(batch, 2 * height, 2 * width, channels)
    return (pixels[:, : size[0], : size[1]],)


_max_pool.defvjp(_forward, _backward)
