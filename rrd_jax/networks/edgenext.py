"""EdgeNeXt (arXiv 2206.10589), with timm's names and modules."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import functional
from rrd_jax.networks import convnext, layers, transformer
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.family import Family

# Numbers of features of a position along each axis.
_FEATURES = 32
_Conv = partial(layers.Conv, use_bias=True, kernel_init=transformer.small_normal)


def waves(count: int) -> np.ndarray:
    """Returns sines and cosines of the positions along an axis: [count, features] float32."""
    positions = 2 * math.pi * np.arange(1, count + 1) / (count + 1e-6)
    features = np.arange(_FEATURES)
    angles = positions[:, None] / 10000.0 ** (features // 2 * 2 / _FEATURES)
    return np.where(features % 2 == 0, np.sin(angles), np.cos(angles)).astype(np.float32)


class _Positions(nn.Module):
    """A linear map of the sines and cosines of positions, added to the input."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _, height, width, channels = x.shape
        rows, columns = waves(height)[:, None], waves(width)[None]
        shape = (height, width, _FEATURES)
        table = [np.broadcast_to(axis, shape) for axis in (rows, columns)]
        positions = jnp.asarray(np.concatenate(table, axis=-1)[None])
        return x + _Conv(channels, 1, dtype=self.dtype, name="token_projection")(positions)


class _Attention(nn.Module):
    """Attention between channels: queries and keys are unit vectors over all positions."""

    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, *grid, width = x.shape
        linear = partial(transformer.Linear, dtype=self.dtype)
        qkv = linear(3 * width, name="qkv")(x)
        qkv = qkv.reshape(batch, -1, 3, self.heads, width // self.heads)
        query, key, value = jnp.moveaxis(qkv, 2, 0)
        query, key = (functional.unit(part, axis=1) for part in (query, key))
        temperature = self.param("temperature", nn.initializers.ones, (self.heads, 1, 1))
        scores = jnp.einsum("bnhd,bnhe->bhde", query, key, precision="highest")
        weights = jax.nn.softmax(scores * temperature[None]).astype(value.dtype)
        y = jnp.einsum("bhde,bnhe->bnhd", weights, value)
        return linear(width, name="proj")(y.reshape(batch, *grid, width))


class _Block(layers.Block):
    """Depthwise convolutions of groups of channels, attention between channels, and an MLP.

    Each group but the last passes a 3x3 convolution, whose result is added to the next group.
    """

    heads: int
    groups: int
    positions: bool
    drop: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        drop = transformer.DropPath(self.drop, name="drop_path")
        y = self._convolved(x)
        if self.positions:
            y = _Positions(self.dtype, name="pos_embd")(y)
        attention = _Attention(self.heads, self.dtype, name="xca")
        z = attention(transformer.LayerNorm(name="norm_xca")(y))
        y = y + drop(transformer.scaled(self, z, "gamma_xca", 1e-6), train=train)
        mlp = transformer.Mlp(4 * x.shape[-1], dtype=self.dtype, name="mlp")
        y = mlp(transformer.LayerNorm(name="norm")(y))
        return x + drop(transformer.scaled(self, y, "gamma", 1e-6), train=train)

    def _convolved(self, x: jax.Array) -> jax.Array:
        width = -(-x.shape[-1] // self.groups)
        ends = [width * i for i in range(1, self.groups)]
        *groups, last = jnp.split(x, ends, axis=-1)
        results = []
        for i, group in enumerate(groups):
            conv = _Conv(width, 3, groups=width, dtype=self.dtype, name=f"convs_{i}")
            results.append(conv(results[-1] + group if results else group))
        return jnp.concatenate([*results, last], axis=-1)


class EdgeNeXt(nn.Module):
    """An EdgeNeXt: a ConvNeXt with attention between channels at the end of the later stages.

    The maps end without a ReLU, so they are their own preactivations.

    Attributes:
      num_classes: number of classes C.
      widths: channels of each stage.
      blocks: number of blocks in each stage.
      heads: number of attention heads.
      kernels: kernel size of the depthwise convolutions in each stage.
      groups: number of groups of channels in the last block of each stage; 0 for a block without
        attention.
      drop_path: drop-path rate of the last block; the rates of earlier blocks are proportional to
        their depth.
      dtype: type of convolutions and matrix products; parameters and norms are float32.
    """

    decay_blocks = r"stages_\d+/blocks_\d+"
    num_classes: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...] = (3, 3, 9, 3)
    heads: int = 8
    kernels: tuple[int, ...] = (3, 5, 7, 9)
    groups: tuple[int, ...] = (0, 2, 3, 4)
    drop_path: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        rates = transformer.stage_drop_rates(self.drop_path, self.blocks)
        stages = []
        for i, (drops, kernel, groups) in enumerate(
            zip(rates, self.kernels, self.groups, strict=True)
        ):
            blocks = [partial(convnext.Block, drop, self.dtype, kernel) for drop in drops]
            if groups:
                blocks[-1] = partial(_Block, self.heads, groups, i == 1, drops[-1], self.dtype)
            stages.append(blocks)
        maps = convnext.maps_of(x, self.widths, stages, self.dtype, train=train)
        return convnext.Head(self.num_classes, name="head")(maps)


_SHAPES = {
    "xx_small": {"widths": (24, 48, 88, 168), "blocks": (2, 2, 6, 2), "heads": 4},
    "x_small": {"widths": (32, 64, 100, 192), "heads": 4},
    "small": {"widths": (48, 96, 160, 304)},
    "base": {"widths": (80, 160, 288, 584)},
}
FAMILY = Family(
    EdgeNeXt,
    {f"edgenext_{size}": partial(EdgeNeXt, **shape) for size, shape in _SHAPES.items()},
    image_size=256,
    timm_ends=("stem.0", "head.fc"),
)
