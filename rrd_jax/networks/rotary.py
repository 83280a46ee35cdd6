"""Attention with rotary positions (arXiv 2104.09864), under timm's names."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import functional
from rrd_jax.networks import transformer, vit


class Rotation(NamedTuple):
    """The rotary positions of the patches of an image.

    Attributes:
      grid: numbers of rows and columns of patches.
      reference: numbers of rows and columns that positions are scaled to, which are 0, 1, ... on
        this grid; 0 for positions from -1 to 1, in units of half the image, at the centers of the
        patches.
      period: the largest period; that of positions from -1 to 1 is in units of half the image.
      offset: position of the first row and column before the scaling.
      columns_first: whether the first angles are those of columns, instead of rows.
      paired: whether neighboring channels are rotated, instead of channels of the two halves.
    """

    grid: tuple[int, int]
    reference: int = 0
    period: float = 10000.0
    offset: float = 0.0
    columns_first: bool = False
    paired: bool = True

    def angles(self, width: int) -> np.ndarray:
        """Returns the angles of the patches: float32 [patches, width].

        A quarter of the angles is computed from rows, the next from columns, and all occur twice.

        Args:
          width: width of an attention head, a multiple of 4.
        """
        periods = self.period ** (4 * np.arange(width // 4) / width)
        if self.reference:
            axes = [(np.arange(n) + self.offset) / n * self.reference for n in self.grid]
        else:
            axes = [2 * np.pi * (2 * (np.arange(n) + 0.5) / n - 1) for n in self.grid]
        positions = np.meshgrid(*axes, indexing="ij")[:: -1 if self.columns_first else 1]
        scaled = np.concatenate([axis.reshape(-1, 1) / periods for axis in positions], axis=1)
        repeated = np.repeat(scaled, 2, axis=1) if self.paired else np.tile(scaled, 2)
        return repeated.astype(np.float32)

    def rotate(self, x: jax.Array) -> jax.Array:
        """Rotates the queries or keys of patches, in float32.

        Args:
          x: [B, N, heads, d], of which the last tokens are patches; other tokens are not rotated.
        """
        table = self.angles(x.shape[-1])
        others, patches = jnp.split(x, [x.shape[1] - len(table)], axis=1)
        wide = patches.astype(jnp.float32)
        if self.paired:
            first, second = wide[..., ::2], wide[..., 1::2]
            other = jnp.stack([-second, first], axis=-1).reshape(wide.shape)
        else:
            first, second = jnp.split(wide, 2, axis=-1)
            other = jnp.concatenate([-second, first], axis=-1)
        cosine, sine = (f(table)[None, :, None] for f in (np.cos, np.sin))
        turned = wide * cosine + other * sine
        return jnp.concatenate([others, turned.astype(x.dtype)], axis=1)


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions.

    Attributes:
      heads: number of heads.
      rotation: the rotary positions; None for none.
      biases: the parts of "qkv" that have biases.
      separate: whether queries, keys and values have separate matrices.
      dtype: type of the computation; rotation and softmax are float32.
    """

    heads: int
    rotation: Rotation | None
    biases: str = ""
    separate: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens [B, N, D] to [B, N, D]."""
        batch, count, dim = x.shape
        if self.separate:
            parts = [
                transformer.Linear(dim, self.dtype, part in self.biases, name=f"{part}_proj")(x)
                for part in "qkv"
            ]
        elif self.biases == "qkv":
            parts = jnp.split(transformer.Linear(3 * dim, self.dtype, name="qkv")(x), 3, axis=-1)
        else:
            qkv = transformer.Linear(3 * dim, self.dtype, use_bias=False, name="qkv")(x)
            parts = jnp.split(qkv, 3, axis=-1)
            for i, part in enumerate("qkv"):
                if part in self.biases:
                    bias = self.param(f"{part}_bias", nn.initializers.zeros, (dim,))
                    parts[i] = functional.add_bias(parts[i], bias)
        query, key, value = (part.reshape(batch, count, self.heads, -1) for part in parts)
        if self.rotation:
            query, key = self.rotation.rotate(query), self.rotation.rotate(key)
        y = jax.nn.dot_product_attention(query, key, value, self.score_bias())
        return transformer.Linear(dim, self.dtype, name="proj")(y.reshape(batch, count, dim))

    def score_bias(self) -> jax.Array | None:
        """Returns values [1, heads, N, N] that are added to the scores; None for none."""
        return None


class Block(vit.Block):
    """A block whose factors of channels are parameters of the block itself."""

    def scaled(self, y: jax.Array, i: int) -> jax.Array:
        """Returns the result y of branch i, 1 or 2, with a factor for each channel."""
        if not self.scale:
            return y
        return transformer.scaled(self, y, f"gamma_{i}", self.scale)
