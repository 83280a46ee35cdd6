"""ConvMixer (arXiv 2201.09792) with timm's names and modules, and the paper's for CIFAR-10."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.networks import layers, transformer
from rrd_jax.networks.contract import Outputs

_Conv = partial(layers.Conv, use_bias=True, kernel_init=layers.torch_default)


class _Mixing(nn.Module):
    """A depthwise convolution, its activation and a norm, added to the input."""

    kernel: int
    activation: Callable
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        width = x.shape[-1]
        y = _Conv(width, self.kernel, groups=width, dtype=self.dtype, name="fn_0")(x)
        return x + layers.BatchNorm(name="fn_2")(self.activation(y), train=train)


class _Block(layers.Block):
    """A block that mixes positions, then channels."""

    kernel: int
    activation: Callable
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        # The names are those of a PyTorch Sequential.
        x = _Mixing(self.kernel, self.activation, self.dtype, name="0")(x, train=train)
        x = _Conv(x.shape[-1], 1, dtype=self.dtype, name="1")(x)
        return layers.BatchNorm(name="3")(self.activation(x), train=train)


class ConvMixer(nn.Module):
    """A network that mixes the patches of an image at a single resolution.

    The maps are the results of four evenly spaced blocks. They end without a ReLU, so they are
    their own preactivations.

    Attributes:
      num_classes: number of classes C.
      width: number of channels.
      depth: number of blocks.
      kernel: kernel size of the depthwise convolutions.
      patch: side of a patch in pixels.
      activation: the activation function.
      dtype: type of convolutions; parameters and statistics are float32.
    """

    decay_blocks = r"blocks_\d+"
    num_classes: int
    width: int
    depth: int
    kernel: int
    patch: int
    activation: Callable = transformer.gelu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        x = _Conv(self.width, self.patch, self.patch, dtype=self.dtype, name="stem_0")(x)
        x = layers.BatchNorm(name="stem_2")(self.activation(x), train=train)
        maps, taps = [x], layers.even_taps(self.depth)
        for i in range(self.depth):
            block = _Block(self.kernel, self.activation, self.dtype, name=f"blocks_{i}")
            x = block(x, train=train)
            if i in taps:
                maps.append(x)
        classifier = layers.Classifier(self.num_classes, name="head")
        return layers.classify(x, classifier, maps, maps)


IMAGENET = {
    "convmixer_768_32": partial(
        ConvMixer, width=768, depth=32, kernel=7, patch=7, activation=functional.relu
    ),
    "convmixer_1024_20_ks9_p14": partial(ConvMixer, width=1024, depth=20, kernel=9, patch=14),
    "convmixer_1536_20": partial(ConvMixer, width=1536, depth=20, kernel=9, patch=7),
}
# The paper's network for CIFAR-10 has 0.7 million parameters.
CIFAR = {"convmixer_256_8_cifar": partial(ConvMixer, width=256, depth=8, kernel=5, patch=2)}
