"""ConvNeXt (arXiv 2201.03545) and ConvNeXt V2 (2301.00808), with timm's names and modules."""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.networks import layers, transformer
from rrd_jax.networks.contract import Outputs

_Conv = partial(layers.Conv, use_bias=True, kernel_init=transformer.small_normal)


class _ResponseNorm(nn.Module):
    """Global response normalization: channels compete by their norm over all positions."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale, bias = (
            self.param(name, nn.initializers.zeros, (x.shape[-1],)) for name in ("scale", "bias")
        )
        wide = x.astype(jnp.float32)
        # The double `where` avoids a NaN in the gradient of a square root at 0.
        squares = jnp.sum(wide * wide, (1, 2), keepdims=True)
        length = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
        share = length / (length.mean(-1, keepdims=True) + 1e-6)
        added = wide * share * functional.per_channel(scale, wide)
        return (wide + added + functional.per_channel(bias, wide)).astype(x.dtype)


class _Mlp(nn.Module):
    """An MLP of two linear layers, or of two 1x1 convolutions for weights of that form."""

    as_convolutions: bool
    response: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        if self.as_convolutions:
            linear = partial(_Conv, kernel=1, dtype=self.dtype)
        else:
            linear = partial(transformer.Linear, dtype=self.dtype)
        y = transformer.gelu(linear(4 * width, name="fc1")(x))
        if self.response:
            y = _ResponseNorm(name="grn")(y)
        return linear(width, name="fc2")(y)


class Block(layers.Block):
    """A depthwise convolution, a norm and an MLP, added to the input.

    Attributes:
      drop: drop-path rate.
      dtype: type of convolutions and matrix products.
      kernel: height and width of the depthwise convolution.
      second: see ConvNeXt.
      as_convolutions: see ConvNeXt.
    """

    drop: float
    dtype: jnp.dtype
    kernel: int = 7
    second: bool = False
    as_convolutions: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, channels] to the same shape."""
        width = x.shape[-1]
        y = _Conv(width, self.kernel, groups=width, dtype=self.dtype, name="conv_dw")(x)
        y = transformer.LayerNorm(name="norm")(y)
        y = _Mlp(self.as_convolutions, self.second, self.dtype, name="mlp")(y)
        if not self.second:
            y = transformer.scaled(self, y, "gamma", 1e-6)
        return x + transformer.DropPath(self.drop, name="drop_path")(y, train=train)


class Stage(nn.Module):
    """Blocks of one width, after a norm and a 2x2 convolution except in the first stage.

    Attributes:
      width: number of output channels.
      first: whether the stage is the first.
      blocks: factories of the blocks.
      dtype: type of the 2x2 convolution.
    """

    width: int
    first: bool
    blocks: tuple[Callable[..., nn.Module], ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, channels] to [B, H / 2, W / 2, width], or to the same size if first."""
        if not self.first:
            x = transformer.LayerNorm(name="downsample_0")(x)
            x = _Conv(self.width, 2, 2, dtype=self.dtype, name="downsample_1")(x)
        for i, block in enumerate(self.blocks):
            x = block(name=f"blocks_{i}")(x, train=train)
        return x


def maps_of(
    x: jax.Array,
    widths: Sequence[int],
    blocks: Sequence[Sequence[Callable[..., nn.Module]]],
    dtype: jnp.dtype,
    *,
    train: bool,
) -> list[jax.Array]:
    """Returns the maps of the stem and of each stage, as submodules of the calling module.

    Args:
      x: normalized images [B, H, W, channels].
      widths: channels of each stage.
      blocks: factories of the blocks of each stage.
      dtype: type of the convolutions.
      train: see `layers.BatchNorm`.
    """
    x = _Conv(widths[0], 4, 4, dtype=dtype, name="stem_0")(x)
    maps = [transformer.LayerNorm(name="stem_1")(x)]
    for i, (width, factories) in enumerate(zip(widths, blocks, strict=True)):
        stage = Stage(width, i == 0, tuple(factories), dtype, name=f"stages_{i}")
        maps.append(stage(maps[-1], train=train))
    return maps


class Head(nn.Module):
    """An average over positions, a norm and the classifier.

    Attributes:
      num_classes: number of classes C.
      normed_patches: whether the patches of Outputs are the last map under the norm.
      epsilon: epsilon of the norm.
      kernel_init: initializer of the classifier's kernel [D, C].
    """

    num_classes: int
    normed_patches: bool = False
    epsilon: float = 1e-6
    kernel_init: Callable = transformer.small_normal

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> Outputs:
        """Computes Outputs from maps [B, H, W, channels], which are their own preactivations."""
        norm = transformer.LayerNorm(self.epsilon, name="norm")
        embedding = norm(layers.average(maps[-1]))
        classifier = layers.Classifier(
            self.num_classes, self.kernel_init, zero_bias=True, name="fc"
        )
        logits = classifier(embedding)
        patches = norm(maps[-1]) if self.normed_patches else maps[-1]
        return Outputs(logits, embedding, tuple(maps), tuple(maps), classifier.head, patches)


class ConvNeXt(nn.Module):
    """A ConvNeXt. The maps end without a ReLU, so they are their own preactivations.

    Attributes:
      num_classes: number of classes C.
      blocks: number of blocks in each stage.
      widths: channels of each stage.
      second: whether the network is V2, with response norms in the MLPs instead of a scale after
        them.
      as_convolutions: whether PyTorch's MLPs are convolutions.
      normed_patches: whether the patches of Outputs are the last map under the final norm.
      drop_path: drop-path rate of the last block; the rates of earlier blocks are proportional to
        their depth.
      dtype: type of convolutions and matrix products; parameters and norms are float32.
    """

    num_classes: int
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    second: bool = False
    as_convolutions: bool = False
    normed_patches: bool = False
    drop_path: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        options = {"second": self.second, "as_convolutions": self.as_convolutions}
        blocks = [
            [partial(Block, drop, self.dtype, **options) for drop in drops]
            for drops in transformer.stage_drop_rates(self.drop_path, self.blocks)
        ]
        maps = maps_of(x, self.widths, blocks, self.dtype, train=train)
        return Head(self.num_classes, self.normed_patches, name="head")(maps)


# Blocks of each stage, channels of the first stage, and whether MLPs are convolutions.
_SHAPES = {
    "atto": ((2, 2, 6, 2), 40, True),
    "femto": ((2, 2, 6, 2), 48, True),
    "pico": ((2, 2, 6, 2), 64, True),
    "nano": ((2, 2, 8, 2), 80, True),
    "tiny": ((3, 3, 9, 3), 96, False),
    "small": ((3, 3, 27, 3), 96, False),
    "base": ((3, 3, 27, 3), 128, False),
    "large": ((3, 3, 27, 3), 192, False),
}


def _convnext(blocks: tuple[int, ...], width: int, as_convolutions: bool, second: bool) -> partial:
    return partial(
        ConvNeXt,
        blocks=blocks,
        widths=tuple(width * 2**i for i in range(4)),
        second=second,
        as_convolutions=as_convolutions,
    )


IMAGENET = {f"convnext_{name}": _convnext(*shape, second=False) for name, shape in _SHAPES.items()}
IMAGENET |= {
    f"convnextv2_{name}": _convnext(*shape, second=True) for name, shape in _SHAPES.items()
}
