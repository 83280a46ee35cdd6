"""Feature maps brought to other sizes."""

import jax
import jax.numpy as jnp
import numpy as np


def averages(size: int, into: int) -> np.ndarray:
    """The matrix [into, size] of PyTorch's adaptive average pooling along one axis."""
    matrix = np.zeros((into, size), np.float32)
    for i in range(into):
        first, end = i * size // into, -(-(i + 1) * size // into)
        matrix[i, first:end] = 1 / (end - first)
    return matrix


def blend(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """[B, H, W, C] to [B, H', W', C] in float32, by matrices [H', H] and [W', W]."""
    x = jnp.einsum("ih,bhwc->biwc", rows, x.astype(jnp.float32), precision="highest")
    return jnp.einsum("jw,biwc->bijc", columns, x, precision="highest")


def pool(x: jax.Array, height: int, width: int) -> jax.Array:
    """Adaptive average pooling of [B, H, W, C] to [B, height, width, C], in float32."""
    if x.shape[1:3] == (height, width):
        return x.astype(jnp.float32)
    return blend(x, averages(x.shape[1], height), averages(x.shape[2], width))


def pool_larger(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two maps in float32, along each axis the larger pooled to the smaller's size."""
    height, width = (min(sizes) for sizes in zip(a.shape[1:3], b.shape[1:3], strict=True))
    return pool(a, height, width), pool(b, height, width)


def nearest(x: jax.Array, height: int, width: int) -> jax.Array:
    """[B, H, W, C] to [B, height, width, C]: row i is what was row floor(i H / height)."""
    rows, columns = (
        np.arange(after) * before // after
        for after, before in zip((height, width), x.shape[1:3], strict=True)
    )
    return x if x.shape[1:3] == (height, width) else x[:, rows][:, :, columns]
