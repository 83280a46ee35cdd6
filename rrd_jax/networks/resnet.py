"""Residual networks: 6n + 2 layers and ResNet-50 for CIFAR, torchvision's for ImageNet.

ResNet: arXiv 1512.03385. ResNeXt: arXiv 1611.05431. Modules have PyTorch's names:
`layer1_0/conv1/kernel` is `layer1.0.conv1.weight` in PyTorch.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.networks import layers
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.pool import max_pool


class _Block(layers.Block):
    """A residual block of two 3x3 convolutions, or with `bottleneck` of 1x1, 3x3, 1x1.

    Returns the result, and the result before its last ReLU.
    """

    width: int
    stride: int
    bottleneck: bool
    inner: int
    groups: int
    shortcut: str
    norm_groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        conv_norm = partial(
            layers.conv_norm, train=train, dtype=self.dtype, norm_groups=self.norm_groups
        )
        first, second, third = (layers.numbered(i) for i in (1, 2, 3))
        inner = self.inner * self.width
        if self.bottleneck:
            y = functional.relu(conv_norm(x, first, inner, 1))
            y = functional.relu(conv_norm(y, second, inner, 3, self.stride, groups=self.groups))
            y = conv_norm(y, third, 4 * self.width, 1)
        else:
            y = functional.relu(conv_norm(x, first, inner, 3, self.stride))
            y = conv_norm(y, second, self.width, 3)
        if x.shape != y.shape:
            x = conv_norm(x, layers.in_sequence(self.shortcut), y.shape[-1], 1, self.stride)
        y = y + x
        return functional.relu(y), y


class ResNet(nn.Module):
    """A residual network.

    Attributes:
      num_classes: number of classes C.
      blocks: number of blocks in each stage.
      widths: channels of the stem, then of the blocks in each stage.
      bottleneck: whether blocks are 1x1, 3x3, 1x1, with four times as many output channels.
      inner: channels inside a block, as a multiple of its width.
      groups: number of groups of the 3x3 convolutions in bottlenecks.
      imagenet_stem: whether the stem is a 7x7 convolution of stride 2 with max-pooling, instead of
        a 3x3 convolution.
      shortcut: PyTorch's name of the projection in a block.
      head: PyTorch's name of the classifier.
      norm_groups: number of groups of each GroupNorm; 0 for batch norms.
      dtype: type of convolutions; parameters and statistics are float32.
      space_to_depth: see `networks.create`; for `imagenet_stem` only.
    """

    num_classes: int
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool = False
    inner: int = 1
    groups: int = 1
    imagenet_stem: bool = False
    shortcut: str = "downsample"
    head: str = "fc"
    norm_groups: int = 0
    dtype: jnp.dtype = jnp.float32
    space_to_depth: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        conv_norm = partial(
            layers.conv_norm, train=train, dtype=self.dtype, norm_groups=self.norm_groups
        )
        kernel, stride = (7, 2) if self.imagenet_stem else (3, 1)
        x = conv_norm(
            x,
            layers.numbered(1),
            self.widths[0],
            kernel,
            stride,
            space_to_depth=self.space_to_depth,
        )
        x = functional.relu(x)
        if self.imagenet_stem:
            x = max_pool(x)
        block = partial(
            _Block,
            bottleneck=self.bottleneck,
            inner=self.inner,
            groups=self.groups,
            shortcut=self.shortcut,
            norm_groups=self.norm_groups,
            dtype=self.dtype,
        )
        maps, preactivations = [x], [x]
        stages = zip(self.blocks, self.widths[1:], strict=True)
        for stage, (count, width) in enumerate(stages, start=1):
            for i in range(count):
                stride = 2 if stage > 1 and i == 0 else 1
                x, before = block(width, stride, name=f"layer{stage}_{i}")(x, train=train)
            maps.append(x)
            preactivations.append(before)
        classifier = layers.Classifier(self.num_classes, name=self.head)
        return layers.classify(x, classifier, maps, preactivations)


_SMALL = (16, 16, 32, 64)
_SMALL_X4 = (32, 64, 128, 256)
_FULL = (64, 64, 128, 256, 512)
_FULL_X2 = (64, 128, 256, 512, 1024)


def _cifar(depth: int, widths: tuple[int, ...] = _SMALL) -> partial:
    return partial(ResNet, blocks=((depth - 2) // 6,) * 3, widths=widths)


def _imagenet(*blocks: int, widths: tuple[int, ...] = _FULL, **shape) -> partial:
    return partial(ResNet, blocks=blocks, widths=widths, imagenet_stem=True, **shape)


CIFAR = {f"resnet{depth}": _cifar(depth) for depth in (8, 14, 20, 32, 44, 56, 110)} | {
    "resnet8x4": _cifar(8, _SMALL_X4),
    "resnet32x4": _cifar(32, _SMALL_X4),
    "resnet50_cifar": partial(
        ResNet,
        blocks=(3, 4, 6, 3),
        widths=_FULL,
        bottleneck=True,
        shortcut="shortcut",
        head="linear",
    ),
}
IMAGENET = {
    "resnet18": _imagenet(2, 2, 2, 2),
    "resnet34": _imagenet(3, 4, 6, 3),
    "resnet50": _imagenet(3, 4, 6, 3, bottleneck=True),
    "resnet101": _imagenet(3, 4, 23, 3, bottleneck=True),
    "resnet152": _imagenet(3, 8, 36, 3, bottleneck=True),
    "resnet50_gn": _imagenet(3, 4, 6, 3, bottleneck=True, norm_groups=32),
    "wide_resnet50_2": _imagenet(3, 4, 6, 3, bottleneck=True, inner=2),
    "resnext50_32x4d": _imagenet(3, 4, 6, 3, bottleneck=True, inner=2, groups=32),
    "resnet10x2": _imagenet(1, 1, 1, 1, widths=_FULL_X2),
    "resnet18x2": _imagenet(2, 2, 2, 2, widths=_FULL_X2),
    "resnet34x2": _imagenet(3, 4, 6, 3, widths=_FULL_X2),
}
