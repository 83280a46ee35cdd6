"""Attention in windows of a map, with positions relative to each other."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import functional
from rrd_jax.networks import transformer

# Added to the scores of two positions that a cyclic shift makes neighbors.
_MASK = -100.0
_LARGEST_SCALE = math.log(100)
_COORDINATE_WIDTH = 512
Size = tuple[int, int]


def to_windows(x: jax.Array, window: Size) -> jax.Array:
    """Cuts maps [B, H, W, D] into windows [B * windows, h * w, D]."""
    (batch, height, width, dim), (rows, columns) = x.shape, window
    x = x.reshape(batch, height // rows, rows, width // columns, columns, dim)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows * columns, dim)


def from_windows(x: jax.Array, window: Size, size: Size) -> jax.Array:
    """Joins windows to maps [B, *size, D]; inverts `to_windows`."""
    (height, width), (rows, columns) = size, window
    x = x.reshape(-1, height // rows, width // columns, rows, columns, x.shape[-1])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, x.shape[-1])


def _rows_of_table(window: Size) -> np.ndarray:
    """Returns the row of a table of relative positions for each pair of positions: [N, N]."""
    grid = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij"), axis=-1).reshape(-1, 2)
    differences = grid[:, None] - grid[None] + np.array(window) - 1
    return differences @ (2 * window[1] - 1, 1)


def _shift_mask(size: Size, window: Size, shift: Size) -> np.ndarray:
    """Returns values added to the scores in the windows of shifted maps: [windows, N, N]."""
    regions = []
    for count, side, step in zip(size, window, shift, strict=True):
        region = np.zeros(count, np.float32)
        if step:
            region[count - side :], region[count - step :] = 1, 2
        regions.append(region)
    joined = (3 * regions[0][:, None] + regions[1])[None, ..., None]
    parts = to_windows(joined, window)[..., 0]
    return np.where(parts[:, None] != parts[:, :, None], np.float32(_MASK), np.float32(0))


def _coordinates(window: Size, reference: Size) -> np.ndarray:
    """Returns relative positions on a logarithmic scale: float32 [(2h - 1) * (2w - 1), 2].

    Args:
      window: rows and columns of the window.
      reference: rows and columns of the window for which the network was pretrained.
    """
    axes = [
        8 * np.arange(1 - side, side) / max(other - 1, 1)
        for side, other in zip(window, reference, strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return (np.sign(grid) * np.log2(np.abs(grid) + 1) / math.log2(8)).astype(np.float32)


class Attention(nn.Module):
    """Self-attention in windows of a map, with a trained bias for each relative position and head.

    Attributes:
      heads: number of heads.
      window: rows and columns of a window, which divide those of the map.
      shift: rows and columns by which the map is shifted cyclically; positions that only the shift
        makes neighbors do not attend to each other.
      dtype: type of the computation; the softmax is float32.
    """

    heads: int
    window: Size
    shift: Size
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, D] to the same shape."""
        batch, size = len(x), x.shape[1:3]
        bias = self.position_bias()[:, _rows_of_table(self.window)][None]
        if any(self.shift):
            x = jnp.roll(x, [-step for step in self.shift], (1, 2))
            mask = _shift_mask(size, self.window, self.shift)
            bias = jnp.tile(bias + mask[:, None], (batch, 1, 1, 1))
        x = to_windows(x, self.window)
        query, key, value = (part.reshape(*x.shape[:2], self.heads, -1) for part in self.parts(x))
        query, key, scale = self.scaled(query, key)
        y = jax.nn.dot_product_attention(query, key, value, bias.astype(self.dtype), scale=scale)
        y = transformer.Linear(x.shape[-1], self.dtype, name="proj")(y.reshape(x.shape))
        y = from_windows(y, self.window, size)
        return jnp.roll(y, self.shift, (1, 2)) if any(self.shift) else y

    def position_bias(self) -> jax.Array:
        """Returns the bias of each head and relative position, [heads, positions]."""
        rows, columns = self.window
        shape = ((2 * rows - 1) * (2 * columns - 1), self.heads)
        return self.param("relative_position_bias_table", transformer.small_normal, shape).T

    def parts(self, x: jax.Array) -> list[jax.Array]:
        """Returns queries, keys and values."""
        return jnp.split(transformer.Linear(3 * x.shape[-1], self.dtype, name="qkv")(x), 3, -1)

    def scaled(self, query: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, float | None]:
        """Returns queries, keys and the scale of their products, None for the usual scale."""
        return query, key, None


class CosineAttention(Attention):
    """Self-attention by cosines, with a bias that an MLP computes from relative positions.

    Attributes:
      reference: rows and columns of the window for which the MLP was pretrained; 0 for `window`.
    """

    reference: int = 0

    def position_bias(self) -> jax.Array:
        """Returns the bias of each head and relative position, [heads, positions]."""
        linear = partial(nn.Dense, kernel_init=transformer.small_normal)
        reference = (self.reference, self.reference) if self.reference else self.window
        x = _coordinates(self.window, reference)
        x = nn.relu(linear(_COORDINATE_WIDTH, name="cpb_mlp_0")(x))
        return 16 * jax.nn.sigmoid(linear(self.heads, use_bias=False, name="cpb_mlp_2")(x).T)

    def parts(self, x: jax.Array) -> list[jax.Array]:
        """Returns queries, keys and values; keys have no bias."""
        dim = x.shape[-1]
        qkv = transformer.Linear(3 * dim, self.dtype, use_bias=False, name="qkv")(x)
        query, key, value = jnp.split(qkv, 3, -1)
        biases = [self.param(f"{name}_bias", nn.initializers.zeros, (dim,)) for name in "qv"]
        return [
            functional.add_bias(query, biases[0]),
            key,
            functional.add_bias(value, biases[1]),
        ]

    def scaled(self, query: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, float | None]:
        """Returns queries and keys for the scale 1, whose products are scaled cosines."""
        start = nn.initializers.constant(math.log(10))
        logarithm = self.param("logit_scale", start, (self.heads, 1, 1))
        scale = jnp.exp(jnp.minimum(logarithm, _LARGEST_SCALE))
        query = functional.unit(query) * scale.reshape(1, 1, self.heads, 1)
        return query.astype(self.dtype), functional.unit(key).astype(self.dtype), 1.0
