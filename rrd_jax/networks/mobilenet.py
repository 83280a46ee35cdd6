"""MobileNets: V1 (arXiv 1704.04861) for ImageNet, V2 (arXiv 1801.04381) for CIFAR and ImageNet."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.networks import layers
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.layers import in_sequence


class MobileNetV1(nn.Module):
    """Alternating depthwise 3x3 and dense 1x1 convolutions.

    Attributes:
      num_classes: number of classes C.
      dtype: type of convolutions; parameters and statistics are float32.
    """

    # model_0 is the stem.
    decay_blocks = r"model_[1-9]\d*_"
    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        options = {"dtype": self.dtype, "kernel_init": layers.torch_default}
        conv_norm = partial(layers.conv_norm, train=train, **options)
        x = functional.relu(conv_norm(x, in_sequence("model_0"), 32, 3, 2))
        maps, preactivations = [x], [x]
        widths = [64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
        for i, width in enumerate(widths, start=1):
            stride = 2 if i in (2, 4, 6, 12) else 1
            channels, names = x.shape[-1], f"model_{i}"
            x = functional.relu(
                conv_norm(x, in_sequence(names), channels, 3, stride, groups=channels)
            )
            before = conv_norm(x, in_sequence(names, 3), width, 1)
            x = functional.relu(before)
            # These blocks are the last of their resolution.
            if i in (3, 5, 11, 13):
                maps.append(x)
                preactivations.append(before)
        classifier = layers.Classifier(self.num_classes, name="fc")
        return layers.classify(x, classifier, maps, preactivations)


# PyTorch's names of (convolution, batch norm) in a block: in the CIFAR network, and in torchvision,
# where blocks without expansion have no first pair.
_PLAIN = (in_sequence("conv"), in_sequence("conv", 3), in_sequence("conv", 6))
_WIDENING = (in_sequence("conv_0"), in_sequence("conv_1"), in_sequence("conv", 2))
_FLAT = (in_sequence("conv_0"), in_sequence("conv", 1))


class _Inverted(layers.Block):
    """An inverted residual: 1x1 expansion, depthwise 3x3, and 1x1 projection without a ReLU."""

    features: int
    hidden: int
    stride: int
    activation: Callable
    names: tuple[tuple[str, str], ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv_norm = partial(layers.conv_norm, train=train, dtype=self.dtype)
        *expansion, depthwise, projection = self.names
        y = x
        # Blocks without expansion have no first pair.
        for names in expansion:
            y = self.activation(conv_norm(y, names, self.hidden, 1))
        y = conv_norm(y, depthwise, self.hidden, 3, self.stride, groups=self.hidden)
        y = conv_norm(self.activation(y), projection, self.features, 1)
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """A network of inverted residuals.

    The maps end without a ReLU, so they are their own preactivations.

    Attributes:
      num_classes: number of classes C.
      stem: channels of the first convolution.
      stages: (expansion, channels, blocks, stride) of each stage.
      torchvision: whether to use the names and ReLU6 of torchvision, and no convolution for an
        expansion of 1. Torchvision's dropout before the classifier is omitted.
      dtype: type of convolutions; parameters and statistics are float32.
    """

    num_classes: int
    stem: int
    stages: tuple[tuple[int, int, int, int], ...]
    torchvision: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        conv_norm = partial(layers.conv_norm, train=train, dtype=self.dtype)
        activation = nn.relu6 if self.torchvision else functional.relu
        name = "features_0" if self.torchvision else "conv1"
        x = activation(conv_norm(x, in_sequence(name), self.stem, 3, 2))
        maps, position = [x], 1
        for stage, (expansion, features, blocks, stride) in enumerate(self.stages):
            names = (_WIDENING if expansion > 1 else _FLAT) if self.torchvision else _PLAIN
            for i in range(blocks):
                x = _Inverted(
                    features,
                    expansion * x.shape[-1],
                    stride if i == 0 else 1,
                    activation,
                    names,
                    self.dtype,
                    name=f"features_{position}" if self.torchvision else f"blocks_{stage}_{i}",
                )(x, train=train)
                position += 1
            if stage in (1, 2, 4, 6):
                maps.append(x)
        name = f"features_{position}" if self.torchvision else "conv2"
        x = activation(conv_norm(x, in_sequence(name), 1280, 1))
        name = "classifier_1" if self.torchvision else "classifier_0"
        small = nn.initializers.normal(0.01)
        classifier = layers.Classifier(self.num_classes, small, zero_bias=True, name=name)
        return layers.classify(x, classifier, maps, maps)


_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# The CIFAR network is half as wide, and has no stride in the second stage.
_HALF = tuple(
    (expansion, width // 2, blocks, 1 if stage == 1 else stride)
    for stage, (expansion, width, blocks, stride) in enumerate(_STAGES)
)

CIFAR = {"mobilenetv2_cifar": partial(MobileNetV2, stem=16, stages=_HALF, torchvision=False)}
IMAGENET = {
    "mobilenetv1": MobileNetV1,
    "mobilenetv2": partial(MobileNetV2, stem=32, stages=_STAGES, torchvision=True),
}
