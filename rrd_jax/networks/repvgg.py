"""RepVGG (arXiv 2101.03697) in its form for training, with timm's names and modules.

`teacher.fold`, which exports use too, merges each block into one convolution.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.networks import layers
from rrd_jax.networks.contract import Outputs


class _Block(layers.Joined):
    """The sum of a 3x3 convolution, a 1x1 convolution and the identity, each with a norm.

    The identity is omitted if the shape changes. Returns the result, and the sum before its ReLU.
    """

    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        def conv(kernel, name):
            layer = layers.ConvNorm(self.width, kernel, self.stride, 1, self.dtype, name=name)
            return layer(x, train=train)

        y = conv(3, "conv_kxk")
        if self.is_initializing() or self.has_variable("params", "conv_1x1"):
            y = y + conv(1, "conv_1x1")
            if x.shape == y.shape:
                y = y + layers.BatchNorm(name="identity")(x, train=train)
        return functional.relu(y), y

    @staticmethod
    def join(params: layers.Leaves, stats: layers.Leaves) -> layers.Leaves:
        """Implements `Joined.join`."""
        kernel, bias = 0.0, 0.0
        for branch in ("conv_kxk", "conv_1x1", "identity"):
            norm = (branch,) if branch == "identity" else (branch, "bn")
            if (*norm, "scale") not in params:
                continue
            factor = params[*norm, "scale"] * jax.lax.rsqrt(stats[*norm, "var"] + 1e-5)
            if branch == "identity":
                weights = jnp.eye(len(factor))[None, None]
            else:
                weights = params[branch, "conv", "kernel"]
            margin = (3 - weights.shape[0]) // 2
            padding = ((margin, margin), (margin, margin), (0, 0), (0, 0))
            kernel = kernel + jnp.pad(weights * functional.per_channel(factor, weights), padding)
            bias = bias + params[*norm, "bias"] - stats[*norm, "mean"] * factor
        return {("conv_kxk", "conv", "kernel"): kernel, ("conv_kxk", "bn", "bias"): bias}


class RepVGG(nn.Module):
    """A RepVGG: after the branches are merged, a plain network of 3x3 convolutions.

    Attributes:
      num_classes: number of classes C.
      stem: channels of the first block.
      widths: channels of each stage.
      blocks: number of blocks in each stage.
      dtype: type of convolutions; parameters and statistics are float32.
    """

    decay_blocks = r"stages_\d+_\d+"
    num_classes: int
    stem: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        x, before = _Block(self.stem, 2, self.dtype, name="stem")(x, train=train)
        maps, preactivations = [x], [before]
        for stage, (width, count) in enumerate(zip(self.widths, self.blocks, strict=True)):
            for i in range(count):
                stride = 2 if i == 0 else 1
                block = _Block(width, stride, self.dtype, name=f"stages_{stage}_{i}")
                x, before = block(x, train=train)
            maps.append(x)
            preactivations.append(before)
        return layers.Head(self.num_classes, name="head")(x, maps, preactivations)


def _repvgg(blocks: tuple[int, ...], width: float, last: float, stem: int) -> partial:
    widths = (*(int(channels * width) for channels in (64, 128, 256)), int(512 * last))
    return partial(RepVGG, stem=stem, widths=widths, blocks=blocks)


_A, _B = (2, 4, 14, 1), (4, 6, 16, 1)
IMAGENET = {
    "repvgg_a0": _repvgg(_A, 0.75, 2.5, 48),
    "repvgg_a1": _repvgg(_A, 1.0, 2.5, 64),
    "repvgg_a2": _repvgg(_A, 1.5, 2.75, 64),
    "repvgg_b0": _repvgg(_B, 1.0, 2.5, 64),
}
