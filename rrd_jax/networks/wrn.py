"""Wide residual networks (arXiv 1605.07146): batch norm and ReLU come before each convolution."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax.networks import layers
from rrd_jax.networks.layers import BatchNorm, Conv


class _Block(layers.Block):
    """Two 3x3 convolutions; returns the sum, and the input after its batch norm."""

    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        before = BatchNorm(name="bn1")(x, train=train)
        y = nn.relu(before)
        if x.shape[-1] != self.width:
            x = Conv(self.width, 1, self.stride, self.dtype, name="convShortcut")(y)
        y = Conv(self.width, 3, self.stride, self.dtype, name="conv1")(y)
        y = nn.relu(BatchNorm(name="bn2", follows="conv1")(y, train=train))
        y = Conv(self.width, 3, 1, self.dtype, name="conv2")(y)
        return x + y, before


class _Stage(nn.Module):
    """Blocks of one width; returns the last sum, and the first block's normalised input."""

    blocks: int
    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        befores = []
        for i in range(self.blocks):
            stride = self.stride if i == 0 else 1
            block = _Block(self.width, stride, self.dtype, name=f"layer_{i}")
            x, before = block(x, train=train)
            befores.append(before)
        return x, befores[0]


class WideResNet(nn.Module):
    """A wide residual network of `depth` layers, three stages of 16, 32 and 64 times `factor`.

    Its taps are raw sums. The twin of a tap is what the next batch norm makes of it.

    Attributes:
      num_classes: C.
      depth: 6n + 4.
      factor: of the widths.
      dtype: what convolutions compute in; parameters and statistics are float32.
    """

    num_classes: int
    depth: int
    factor: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> layers.Outputs:
        """Images [B, H, W, channels], normalised, to Outputs."""
        x = Conv(16, 3, 1, self.dtype, name="conv1")(x)
        maps, befores = [x], []
        for stage, width in enumerate((16, 32, 64), start=1):
            blocks, stride = (self.depth - 4) // 6, 1 if stage == 1 else 2
            part = _Stage(blocks, width * self.factor, stride, self.dtype, name=f"block{stage}")
            x, before = part(x, train=train)
            maps.append(x)
            befores.append(before)
        x = BatchNorm(name="bn1")(x, train=train)
        embedding = layers.global_average(nn.relu(x))
        classifier = layers.Classifier(self.num_classes, zero_bias=True, name="fc")
        return layers.classified(classifier, embedding, maps, (maps[0], *befores[1:], x))


CIFAR = {
    f"wrn_{depth}_{factor}": partial(WideResNet, depth=depth, factor=factor)
    for depth, factor in ((16, 1), (16, 2), (40, 1), (40, 2))
}
