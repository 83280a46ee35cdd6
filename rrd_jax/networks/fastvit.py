"""FastViT (arXiv 2303.14189) in its form for training, with timm's names and modules.

`teacher.fold`, which exports use too, merges the branches of each convolution and token mixer.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.networks import layers, transformer
from rrd_jax.networks.branches import Branches, identity, with_norm
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.family import Family
from rrd_jax.networks.layers import Leaves

_HEAD_WIDTH = 32
_Branches = partial(Branches, default_start=True)


def _kernels(size: int) -> tuple[tuple[str, int], ...]:
    return (("conv_kxk_0", size), ("conv_scale", 1)) if size > 1 else (("conv_kxk_0", 1),)


class _Scale(nn.Module):
    """A trained factor per channel, with the shape that timm's factors have."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], 1, 1)
        gamma = self.param("gamma", nn.initializers.constant(1e-5), shape).reshape(-1)
        return (x * functional.per_channel(gamma, x)).astype(x.dtype)


class _Identity(nn.Module):
    """The batch norm of a block without convolutions."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return layers.BatchNorm(name="identity")(x, train=train)


class _Mixer(layers.Joined):
    """x + gamma (mixed(x) - norm(x)), with a depthwise 3x3 convolution (RepMixer)."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        width = x.shape[-1]
        mixer = _Branches(width, _kernels(3), groups=width, dtype=self.dtype, name="mixer")
        y = mixer(x, train=train)
        if not (self.is_initializing() or self.has_variable("params", "norm")):
            # `teacher.fold` merged the branches.
            return y
        y = y - _Identity(name="norm")(x, train=train)
        return x + _Scale(name="layer_scale")(y)

    def join(self, params: Leaves, stats: Leaves) -> Leaves:
        """Implements `Joined.join`."""
        inner, inner_stats = (
            {path[1:]: leaf for path, leaf in tree.items() if path[0] == "mixer"}
            for tree in (params, stats)
        )
        paths = [("conv_kxk_0", "conv", "kernel"), ("conv_kxk_0", "bn", "bias")]
        merged = Branches(0, _kernels(3), parent=None).join(inner, inner_stats)
        kernel, bias = (merged[path] for path in paths)
        center = identity(kernel.shape)
        weights, shift = with_norm(center, params, stats, ("norm", "identity"))
        gamma = params["layer_scale", "gamma"].reshape(-1)
        kernel = center + (kernel - weights) * functional.per_channel(gamma, kernel)
        results = (kernel, (bias - shift) * gamma)
        return {("mixer", *path): leaf for path, leaf in zip(paths, results, strict=True)}


class _Mlp(nn.Module):
    """A depthwise 7x7 convolution with a norm, and two 1x1 convolutions."""

    ratio: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        width = x.shape[-1]
        conv = partial(
            layers.Conv,
            kernel=1,
            dtype=self.dtype,
            use_bias=True,
            kernel_init=transformer.normal,
        )
        x = layers.ConvNorm(
            width, 7, 1, width, self.dtype, kernel_init=transformer.normal, name="conv"
        )(x, train=train)
        return conv(width, name="fc2")(transformer.gelu(conv(self.ratio * width, name="fc1")(x)))


class _Attention(nn.Module):
    """Multi-head self-attention between the positions of a map, without biases of queries."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, *grid, width = x.shape
        linear = partial(transformer.Linear, dtype=self.dtype, kernel_init=transformer.normal)
        qkv = linear(3 * width, use_bias=False, name="qkv")(x)
        qkv = qkv.reshape(batch, -1, 3, width // _HEAD_WIDTH, _HEAD_WIDTH)
        query, key, value = jnp.moveaxis(qkv, 2, 0)
        y = jax.nn.dot_product_attention(query, key, value)
        return linear(width, name="proj")(y.reshape(batch, *grid, width))


class _Block(layers.Block):
    """A token mixer, and an MLP added to its input."""

    ratio: int
    attention: bool
    drop: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def added(x, y, number):
            y = _Scale(name=f"layer_scale{number and '__'}{number}")(y)
            return x + transformer.DropPath(self.drop, name=f"drop_path{number}")(y, train=train)

        if self.attention:
            normed = layers.BatchNorm(name="norm")(x, train=train)
            x = added(x, _Attention(self.dtype, name="token_mixer")(normed), "1")
        else:
            x = _Mixer(self.dtype, name="token_mixer")(x, train=train)
        y = _Mlp(self.ratio, self.dtype, name="mlp")(x, train=train)
        return added(x, y, "2" if self.attention else "")


class _Downsample(nn.Module):
    """A 7x7 convolution of stride 2 that sums up two sizes, and a 1x1 convolution."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        kernels = (("large_conv", 7), ("small_conv", 3))
        large = _Branches(self.width, kernels, 2, x.shape[-1], dtype=self.dtype, name="proj_0")
        x = large(x, train=train)
        last = _Branches(self.width, _kernels(1), dtype=self.dtype, name="proj_1")
        return transformer.gelu(last(x, train=train))


class _Positions(nn.Module):
    """A depthwise 7x7 convolution, added to its input."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        return x + layers.Conv(
            width,
            7,
            dtype=self.dtype,
            groups=width,
            use_bias=True,
            kernel_init=layers.torch_default,
            default_bias=True,
            name="pos_enc",
        )(x)


class _Stage(nn.Module):
    """Blocks of one width, after a downsampling except in the first stage."""

    width: int
    first: bool
    ratio: int
    attention: bool
    drops: tuple[float, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not self.first:
            x = _Downsample(self.width, self.dtype, name="downsample")(x, train=train)
        if self.attention:
            x = _Positions(self.dtype, name="pos_emb")(x)
        for i, drop in enumerate(self.drops):
            block = _Block(self.ratio, self.attention, drop, self.dtype, name=f"blocks_{i}")
            x = block(x, train=train)
        return x


class FastViT(nn.Module):
    """A FastViT. The maps end without a ReLU, so they are their own preactivations.

    Attributes:
      num_classes: number of classes C.
      widths: channels of each stage.
      blocks: number of blocks in each stage.
      ratio: hidden width of the MLPs, as a multiple of the channels.
      attention: whether the last stage has attention, instead of convolutions.
      drop_path: drop-path rate of the last block; the rates of earlier blocks are proportional to
        their depth.
      dtype: type of convolutions and matrix products; parameters and statistics are float32.
    """

    decay_blocks = r"stages_\d+/blocks_\d+"
    decay_head = ("final_conv", "head")
    num_classes: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    ratio: int = 4
    attention: bool = False
    drop_path: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        width = self.widths[0]
        # Kernel size, stride and groups of the convolutions of the stem.
        for i, (size, stride, groups) in enumerate(((3, 2, 1), (3, 2, width), (1, 1, 1))):
            conv = _Branches(
                width, _kernels(size), stride, groups, dtype=self.dtype, name=f"stem_{i}"
            )
            x = transformer.gelu(conv(x, train=train))
        maps, rates = [x], transformer.stage_drop_rates(self.drop_path, self.blocks)
        for i, (width, drops) in enumerate(zip(self.widths, rates, strict=True)):
            x = _Stage(
                width,
                i == 0,
                self.ratio,
                self.attention and i == len(self.widths) - 1,
                drops,
                self.dtype,
                name=f"stages_{i}",
            )(x, train=train)
            maps.append(x)
        width = 2 * x.shape[-1]
        last = _Branches(
            width,
            _kernels(3),
            groups=x.shape[-1],
            squeeze=width // 16,
            dtype=self.dtype,
            name="final_conv",
        )
        patches = transformer.gelu(last(x, train=train))
        head = layers.Head(self.num_classes, transformer.normal, zero_bias=True, name="head")
        return head(patches, maps, maps)


_WIDTHS = (64, 128, 256, 512)
_SHAPES = {
    "t8": {"widths": (48, 96, 192, 384), "blocks": (2, 2, 4, 2), "ratio": 3},
    "t12": {"widths": _WIDTHS, "blocks": (2, 2, 6, 2), "ratio": 3},
    "s12": {"widths": _WIDTHS, "blocks": (2, 2, 6, 2)},
    "sa12": {"widths": _WIDTHS, "blocks": (2, 2, 6, 2), "attention": True},
    "sa24": {"widths": _WIDTHS, "blocks": (4, 4, 12, 4), "attention": True},
    "sa36": {"widths": _WIDTHS, "blocks": (6, 6, 18, 6), "attention": True},
    "ma36": {"widths": (76, 152, 304, 608), "blocks": (6, 6, 18, 6), "attention": True},
}
FAMILY = Family(
    FastViT,
    {f"fastvit_{size}": partial(FastViT, **shape) for size, shape in _SHAPES.items()},
    image_size=256,
    timm_ends=("stem.0.conv_kxk.0.conv", "head.fc"),
)
