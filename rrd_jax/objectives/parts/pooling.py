"""Resizing of feature maps."""

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax.objectives.parts.arithmetic import matmul


def averages(size: int, into: int) -> np.ndarray:
    """Returns the matrix [into, size] of PyTorch's adaptive average pooling along one axis."""
    matrix = np.zeros((into, size), np.float32)
    for i in range(into):
        first, end = i * size // into, -(-(i + 1) * size // into)
        matrix[i, first:end] = 1 / (end - first)
    return matrix


def blend(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Resizes [B, H, W, C] to [B, H', W', C] in float32, by matrices [H', H] and [W', W]."""
    batch, height, width, channels = x.shape
    by_row = matmul_each(rows, x.astype(jnp.float32).reshape(batch, height, -1))
    by_column = matmul_each(columns, by_row.reshape(-1, width, channels))
    return by_column.reshape(batch, len(rows), len(columns), channels)


def matmul_each(matrix: jax.Array, x: jax.Array) -> jax.Array:
    """Multiplies a matrix [m, n] with each of x [B, n, k], in full float32; returns [B, m, k].

    The matrix is broadcast to a batch: with a single matrix, XLA would transpose input and output.
    """
    return matmul(jnp.broadcast_to(matrix, (len(x), *matrix.shape)), x)


def pool(x: jax.Array, height: int, width: int) -> jax.Array:
    """Applies adaptive average pooling to [B, H, W, C]; returns float32 [B, height, width, C]."""
    if x.shape[1:3] == (height, width):
        return x.astype(jnp.float32)
    if x.shape[1] % height == 0 and x.shape[2] % width == 0:
        batch, _, _, channels = x.shape
        tiles = x.astype(jnp.float32).reshape(
            batch, height, -1, width, x.shape[2] // width, channels
        )
        return jnp.mean(tiles, axis=(2, 4))
    return blend(x, averages(x.shape[1], height), averages(x.shape[2], width))


def pool_larger(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pools two maps to their smaller size along each axis; returns both in float32."""
    height, width = (min(sizes) for sizes in zip(a.shape[1:3], b.shape[1:3], strict=True))
    return pool(a, height, width), pool(b, height, width)


def nearest(x: jax.Array, height: int, width: int) -> jax.Array:
    """Resizes [B, H, W, C] to [B, height, width, C]: row i becomes row floor(i H / height)."""
    rows, columns = (
        np.arange(after) * before // after
        for after, before in zip((height, width), x.shape[1:3], strict=True)
    )
    return x if x.shape[1:3] == (height, width) else x[:, rows][:, :, columns]
