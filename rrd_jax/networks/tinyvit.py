"""TinyViT (arXiv 2207.10666), with timm's names and modules."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax.networks import convnext, layers, repvit, transformer, windows
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.family import Family

_EPSILON = 1e-5
_ConvNorm = partial(layers.ConvNorm, kernel_init=layers.torch_default)
_Linear = partial(transformer.Linear, kernel_init=transformer.normal)


def _convolutions(
    x: jax.Array,
    inside: int,
    width: int,
    dtype: jnp.dtype,
    *,
    train: bool,
    stride: int = 1,
    start: float = 1.0,
) -> jax.Array:
    """Applies a 1x1, a depthwise 3x3 and a 1x1 convolution, as submodules of the calling module.

    Args:
      x: [B, H, W, channels].
      inside: channels of the first two convolutions.
      width: number of output channels.
      dtype: type of the convolutions.
      train: see `layers.BatchNorm`.
      stride: stride of the 3x3 convolution.
      start: initial value of the last norm's scale.
    """
    x = _ConvNorm(inside, 1, 1, 1, dtype, name="conv1")(x, train=train)
    depthwise = _ConvNorm(inside, 3, stride, inside, dtype, name="conv2")
    x = transformer.gelu(depthwise(transformer.gelu(x), train=train))
    return _ConvNorm(width, 1, 1, 1, dtype, start=start, name="conv3")(x, train=train)


class _Residual(layers.Block):
    """An inverted residual, followed by a GELU."""

    drop: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        width = x.shape[-1]
        y = _convolutions(x, 4 * width, width, self.dtype, train=train, start=0.0)
        y = transformer.DropPath(self.drop, name="drop_path")(y, train=train)
        return transformer.gelu(x + y)


class _Downsample(nn.Module):
    """Convolutions of stride 2."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return _convolutions(x, self.width, self.width, self.dtype, train=train, stride=2)


class _Attention(nn.Module):
    """Self-attention in windows, with a trained bias for each distance of two positions."""

    heads: int
    window: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps windows [B, N, D] to [B, N, D], with N = window * window."""
        batch, count, dim = x.shape
        x = transformer.LayerNorm(_EPSILON, name="norm")(x)
        qkv = _Linear(3 * dim, self.dtype, name="qkv")(x).reshape(batch, count, self.heads, 3, -1)
        table = self.param("attention_biases", nn.initializers.zeros, (self.heads, count))
        bias = table[:, distances(self.window)][None].astype(self.dtype)
        y = jax.nn.dot_product_attention(*jnp.moveaxis(qkv, 3, 0), bias)
        return _Linear(dim, self.dtype, name="proj")(y.reshape(batch, count, dim))


def distances(window: int) -> np.ndarray:
    """Returns the columns of a table of distances: [N, N], N = window * window.

    Args:
      window: numbers of rows and columns of a window. The table has a column for each pair of
        distances along the rows and the columns.
    """
    rows, columns = np.divmod(np.arange(window**2), window)
    row_distances, column_distances = (np.abs(n[:, None] - n[None]) for n in (rows, columns))
    return row_distances * window + column_distances


class _Mlp(nn.Module):
    """A norm and two linear layers."""

    ratio: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = transformer.LayerNorm(_EPSILON, name="norm")(x)
        x = transformer.gelu(_Linear(int(self.ratio * width), self.dtype, name="fc1")(x))
        return _Linear(width, self.dtype, name="fc2")(x)


class _Block(layers.Block):
    """Attention in windows, a depthwise 3x3 convolution and an MLP.

    As in timm, windows at the lower and right edges are padded with zeros, which take part in the
    attention.
    """

    heads: int
    window: int
    ratio: float
    drop: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def added(x, y, i):
            return x + transformer.DropPath(self.drop, name=f"drop_path{i}")(y, train=train)

        _, height, width, dim = x.shape
        window = (self.window, self.window)
        padded = jnp.pad(x, ((0, 0), *((0, -n % self.window) for n in (height, width)), (0, 0)))
        attention = _Attention(self.heads, self.window, self.dtype, name="attn")
        y = attention(windows.to_windows(padded, window))
        y = windows.from_windows(y, window, padded.shape[1:3])
        x = added(x, y[:, :height, :width], 1)
        x = _ConvNorm(dim, 3, 1, dim, self.dtype, name="local_conv")(x, train=train)
        return added(x, _Mlp(self.ratio, self.dtype, name="mlp")(x), 2)


class TinyViT(nn.Module):
    """A TinyViT: a stage of convolutions, and stages with attention in windows.

    The maps end without a ReLU, so they are their own preactivations.

    Attributes:
      num_classes: number of classes C.
      widths: channels of each stage.
      blocks: number of blocks in each stage.
      heads: number of attention heads in each stage after the first.
      windows: numbers of rows and columns of the windows in each stage after the first.
      mlp: hidden width of the MLPs, as a multiple of the channels.
      drop_path: drop-path rate of the last block; the rates of earlier blocks are proportional to
        their depth.
      dtype: type of convolutions and matrix products; parameters and norms are float32.
    """

    decay_blocks = r"stages_\d+/blocks_\d+"
    num_classes: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[int, ...] = (7, 14, 7)
    mlp: float = 4.0
    drop_path: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        stem = repvit.Stem(self.widths[0], _ConvNorm, self.dtype, name="patch_embed")
        maps = [stem(x, train=train)]
        rates = transformer.stage_drop_rates(self.drop_path, self.blocks)
        for i, (width, drops) in enumerate(zip(self.widths, rates, strict=True)):
            modules, block = {}, partial(_Residual, dtype=self.dtype)
            if i > 0:
                modules["downsample"] = partial(_Downsample, width, self.dtype)
                sizes = (self.heads[i - 1], self.windows[i - 1], self.mlp)
                block = partial(_Block, *sizes, dtype=self.dtype)
            modules |= {f"blocks_{j}": partial(block, drop=drop) for j, drop in enumerate(drops)}
            maps.append(layers.Sequential(modules, name=f"stages_{i}")(maps[-1], train=train))
        head = convnext.Head(
            self.num_classes, epsilon=_EPSILON, kernel_init=transformer.normal, name="head"
        )
        return head(maps)


_21M = {"widths": (96, 192, 384, 576), "heads": (6, 12, 18)}
_SHAPES = {
    "5m_224": {"widths": (64, 128, 160, 320), "heads": (4, 5, 10)},
    "11m_224": {"widths": (64, 128, 256, 448), "heads": (4, 8, 14)},
    "21m_224": _21M,
    "21m_384": {**_21M, "windows": (12, 24, 12)},
    "21m_512": {**_21M, "windows": (16, 32, 16)},
}
FAMILY = Family(
    TinyViT,
    {
        f"tiny_vit_{size}": partial(TinyViT, **shape, blocks=(2, 2, 6, 2))
        for size, shape in _SHAPES.items()
    },
    image_size=224,
    sizes={"tiny_vit_21m_384": 384, "tiny_vit_21m_512": 512},
    timm_ends=("patch_embed.conv1.conv", "head.fc"),
)
