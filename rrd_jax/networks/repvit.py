"""RepViT (arXiv 2307.09283) in its form for training, with timm's names and modules.

`teacher.fold`, which exports use too, merges the branches of each token mixer.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.networks import inverted, layers, transformer
from rrd_jax.networks.branches import identity, padded, with_norm
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.family import Family
from rrd_jax.networks.layers import Leaves

_ConvNorm = partial(layers.ConvNorm, names=("c", "bn"), kernel_init=layers.torch_default)


class _Mixer(layers.Joined):
    """The norm of a sum: a depthwise 3x3 convolution with a norm, a 1x1 one and the identity."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        width = x.shape[-1]
        y = _ConvNorm(width, 3, 1, width, self.dtype, name="conv")(x, train=train)
        if not (self.is_initializing() or self.has_variable("params", "conv1")):
            # `teacher.fold` merged the branches.
            return y
        scale = layers.Conv(
            width,
            1,
            dtype=self.dtype,
            groups=width,
            use_bias=True,
            kernel_init=layers.torch_default,
            default_bias=True,
            name="conv1",
        )
        return layers.BatchNorm(name="bn")(y + scale(x) + x, train=train)

    def join(self, params: Leaves, stats: Leaves) -> Leaves:
        """Implements `Joined.join`."""
        kernel = params["conv", "c", "kernel"]
        weights, bias = with_norm(kernel, params, stats, ("conv", "bn"))
        weights = weights + padded(params["conv1", "kernel"], kernel.shape) + identity(kernel.shape)
        bias = bias + params["conv1", "bias"]
        weights, bias = with_norm(weights, params, stats, ("bn",), bias)
        return {("conv", "c", "kernel"): weights, ("conv", "bn", "bias"): bias}


class _Mlp(nn.Module):
    """Two 1x1 convolutions with norms; the second norm starts at 0."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        width = x.shape[-1]
        y = _ConvNorm(2 * width, 1, 1, 1, self.dtype, name="conv1")(x, train=train)
        last = _ConvNorm(width, 1, 1, 1, self.dtype, start=0.0, name="conv2")
        return last(transformer.gelu(y), train=train)


class _Block(layers.Block):
    """A token mixer, optional squeeze and excitation, and an MLP added to its input."""

    squeezed: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = _Mixer(self.dtype, name="token_mixer")(x, train=train)
        if self.squeezed:
            width = inverted.divisible(x.shape[-1] / 4)
            options = (functional.relu, nn.sigmoid, ("fc1", "fc2"), self.dtype, True)
            x = layers.Squeeze(width, *options, name="se")(x)
        return x + _Mlp(self.dtype, name="channel_mixer")(x, train=train)


class _Downsample(nn.Module):
    """A block, a depthwise convolution of stride 2, a 1x1 convolution and an MLP."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = _Block(False, self.dtype, name="pre_block")(x, train=train)
        before = x.shape[-1]
        spatial = _ConvNorm(before, 3, 2, before, self.dtype, name="spatial_downsample")
        channels = _ConvNorm(self.width, 1, 1, 1, self.dtype, name="channel_downsample")
        x = channels(spatial(x, train=train), train=train)
        return x + _Mlp(self.dtype, name="ffn")(x, train=train)


class Stem(nn.Module):
    """Two 3x3 convolutions of stride 2.

    Attributes:
      width: number of output channels.
      conv_norm: factory of convolutions with norms.
      dtype: type of the convolutions.
    """

    width: int
    conv_norm: Callable[..., nn.Module]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, channels] to [B, H / 4, W / 4, width]."""
        x = self.conv_norm(self.width // 2, 3, 2, 1, self.dtype, name="conv1")(x, train=train)
        second = self.conv_norm(self.width, 3, 2, 1, self.dtype, name="conv2")
        return second(transformer.gelu(x), train=train)


class _Classifier(nn.Module):
    """A batch norm and a linear layer."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Any:
        if not self.num_classes:
            return ()
        x = layers.BatchNorm(name="bn")(x, train=train)
        return layers.Classifier(self.num_classes, transformer.normal, zero_bias=True, name="l")(x)


class _Head(nn.Module):
    """Two classifiers, whose logits are averaged."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Any:
        first, second = (
            _Classifier(self.num_classes, name=name)(x, train=train)
            for name in ("head", "head_dist")
        )
        return (first + second) / 2 if self.num_classes else ()


class RepViT(nn.Module):
    """A RepViT. The maps end without a ReLU, so they are their own preactivations.

    Attributes:
      num_classes: number of classes C.
      widths: channels of each stage.
      blocks: number of blocks in each stage.
      dtype: type of convolutions; parameters and statistics are float32.
    """

    decay_blocks = r"stages_\d+/blocks_\d+"
    # The batch norms before the linear layers too.
    classifier_modules = ("head",)
    num_classes: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        x = Stem(self.widths[0], _ConvNorm, self.dtype, name="stem")(x, train=train)
        maps = [x]
        for i, (width, count) in enumerate(zip(self.widths, self.blocks, strict=True)):
            modules = {f"blocks_{j}": partial(_Block, j % 2 == 0, self.dtype) for j in range(count)}
            if i > 0:
                modules = {"downsample": partial(_Downsample, width, self.dtype), **modules}
            x = layers.Sequential(modules, name=f"stages_{i}")(x, train=train)
            maps.append(x)
        embedding = layers.average(x)
        logits = _Head(self.num_classes, name="head")(embedding, train=train)
        return Outputs(logits, embedding, tuple(maps), tuple(maps), patches=x)


_SHAPES = {
    "m0_9": (48, (2, 2, 14, 2)),
    "m1_0": (56, (2, 2, 14, 2)),
    "m1_1": (64, (2, 2, 12, 2)),
    "m1_5": (64, (4, 4, 24, 4)),
    "m2_3": (80, (6, 6, 34, 2)),
}
FAMILY = Family(
    RepViT,
    {
        f"repvit_{size}": partial(
            RepViT, widths=tuple(width * 2**i for i in range(4)), blocks=blocks
        )
        for size, (width, blocks) in _SHAPES.items()
    },
    image_size=224,
    timm_ends=("stem.conv1.c", "head.head.l"),
)
