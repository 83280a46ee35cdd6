"""Wide residual networks (arXiv 1605.07146), with batch norm and ReLU before each convolution."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.networks import layers
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.layers import BatchNorm, Conv


class _Block(layers.Block):
    """Two 3x3 convolutions, added to the input.

    Returns the sum, and the input after its batch norm.
    """

    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        conv = partial(Conv, self.width, dtype=self.dtype)
        normalized = BatchNorm(name="bn1")(x, train=train)
        y = functional.relu(normalized)
        if x.shape[-1] != self.width:
            x = conv(kernel=1, stride=self.stride, name="convShortcut")(y)
        y = conv(stride=self.stride, name="conv1")(y)
        y = functional.relu(BatchNorm(name="bn2", follows="conv1")(y, train=train))
        return x + conv(name="conv2")(y), normalized


class _Stage(nn.Module):
    """Blocks of one width.

    Returns the sum of the last block, and the normalized input of the first block.
    """

    blocks: int
    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        inputs = []
        for i in range(self.blocks):
            stride = self.stride if i == 0 else 1
            block = _Block(self.width, stride, self.dtype, name=f"layer_{i}")
            x, normalized = block(x, train=train)
            inputs.append(normalized)
        return x, inputs[0]


class WideResNet(nn.Module):
    """A wide residual network of `depth` layers, three stages of 16, 32 and 64 times `factor`.

    The maps are sums, before a batch norm. The preactivation of a map is the result of the next
    batch norm, which the next ReLU reads.

    Attributes:
      num_classes: number of classes C.
      depth: number of layers, 6n + 4.
      factor: factor of the widths.
      dtype: type of convolutions; parameters and statistics are float32.
    """

    num_classes: int
    depth: int
    factor: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        x = Conv(16, dtype=self.dtype, name="conv1")(x)
        blocks = (self.depth - 4) // 6
        maps, inputs = [x], []
        for i, width in enumerate((16, 32, 64), start=1):
            stride = 1 if i == 1 else 2
            stage = _Stage(blocks, width * self.factor, stride, self.dtype, name=f"block{i}")
            x, normalized = stage(x, train=train)
            maps.append(x)
            inputs.append(normalized)
        x = BatchNorm(name="bn1")(x, train=train)
        classifier = layers.Classifier(self.num_classes, zero_bias=True, name="fc")
        return layers.classify(functional.relu(x), classifier, maps, (maps[0], *inputs[1:], x))


CIFAR = {
    f"wrn_{depth}_{factor}": partial(WideResNet, depth=depth, factor=factor)
    for depth, factor in ((16, 1), (16, 2), (40, 1), (40, 2))
}
