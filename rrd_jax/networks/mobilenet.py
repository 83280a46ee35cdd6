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
    """Depthwise 3x3 and dense 1x1 convolutions in turn.

    Attributes:
      num_classes: C.
      dtype: what convolutions compute in; parameters and statistics are float32.
    """

    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Images [B, H, W, channels], normalised, to Outputs."""
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
            if i in (3, 5, 11, 13):  # the last of their resolution
                maps.append(x)
                preactivations.append(before)
        classifier = layers.Classifier(self.num_classes, name="fc")
        return layers.classify(x, classifier, maps, preactivations)


# What PyTorch calls (convolution, batch norm) of a block: in the CIFAR network; and in
# torchvision's, which leaves out the first pair where nothing widens.
_PLAIN = (in_sequence("conv"), in_sequence("conv", 3), in_sequence("conv", 6))
_WIDENING = (in_sequence("conv_0"), in_sequence("conv_1"), in_sequence("conv", 2))
_FLAT = (in_sequence("conv_0"), in_sequence("conv", 1))


class _Inverted(layers.Block):
    """Inverted residual: 1x1 that widens, depthwise 3x3, 1x1 that narrows, no ReLU at the end."""

    features: int
    hidden: int
    stride: int
    activation: Callable
    names: tuple[tuple[str, str], ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv_norm = partial(layers.conv_norm, train=train, dtype=self.dtype)
        *widen, depthwise, narrow = self.names
        y = x
        for names in widen:  # one, or none
            y = self.activation(conv_norm(y, names, self.hidden, 1))
        y = conv_norm(y, depthwise, self.hidden, 3, self.stride, groups=self.hidden)
        y = conv_norm(self.activation(y), narrow, self.features, 1)
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """Inverted residuals. Its maps end without a ReLU, so they are their own preactivations.

    Attributes:
      num_classes: C.
      stem: channels of the first convolution.
      stages: (expansion, channels, blocks, stride) of each.
      torchvision: its names, ReLU6, and no widening to the same width; but no dropout before the
        classifier, which torchvision has in training.
      dtype: what convolutions compute in; parameters and statistics are float32.
    """

    num_classes: int
    stem: int
    stages: tuple[tuple[int, int, int, int], ...]
    torchvision: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Images [B, H, W, channels], normalised, to Outputs."""
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
# For CIFAR half as wide, and without the stride of the second stage.
_HALF = tuple(
    (expansion, width // 2, blocks, 1 if stage == 1 else stride)
    for stage, (expansion, width, blocks, stride) in enumerate(_STAGES)
)

CIFAR = {"mobilenetv2_cifar": partial(MobileNetV2, stem=16, stages=_HALF, torchvision=False)}
IMAGENET = {
    "mobilenetv1": MobileNetV1,
    "mobilenetv2": partial(MobileNetV2, stem=32, stages=_STAGES, torchvision=True),
}
