"""ShuffleNets: V1 (arXiv 1707.01083) for CIFAR, V2 (arXiv 1807.11164) for CIFAR and ImageNet."""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.networks import layers
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.layers import in_sequence, numbered
from rrd_jax.networks.pool import max_pool

_conv_norm = partial(layers.conv_norm, kernel_init=layers.torch_default)


def _shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Interleaves the groups of [..., channels]: the first channel of each, the second, ..."""
    grouped = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return grouped.swapaxes(-1, -2).reshape(x.shape)


class _BlockV1(layers.Block):
    """A grouped 1x1, a depthwise 3x3 and a grouped 1x1 convolution, added to the input.

    With stride 2, the result is concatenated with the pooled input instead.
    """

    features: int
    stride: int
    groups: int
    first: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        conv_norm = partial(_conv_norm, train=train, dtype=self.dtype)
        features = self.features - (x.shape[-1] if self.stride == 2 else 0)
        inner = features // 4
        # The stem has too few channels for groups.
        groups = 1 if self.first else self.groups
        y = functional.relu(conv_norm(x, numbered(1), inner, 1, groups=groups))
        y = _shuffle(y, groups)
        y = functional.relu(conv_norm(y, numbered(2), inner, 3, self.stride, groups=inner))
        y = conv_norm(y, numbered(3), features, 1, groups=self.groups)
        if self.stride == 2:
            x = nn.avg_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
            y = jnp.concatenate([y, x], axis=-1)
        else:
            y += x
        return functional.relu(y), y


class ShuffleNetV1(nn.Module):
    """ShuffleNetV1 for small images: a 1x1 stem, and three stages that halve the maps.

    Attributes:
      num_classes: number of classes C.
      widths: channels of each stage.
      blocks: number of blocks in each stage.
      groups: number of groups of the 1x1 convolutions.
      dtype: type of convolutions; parameters and statistics are float32.
    """

    num_classes: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    groups: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        x = functional.relu(_conv_norm(x, numbered(1), 24, 1, train=train, dtype=self.dtype))
        maps, preactivations = [x], [x]
        for stage, (width, count) in enumerate(zip(self.widths, self.blocks, strict=True), start=1):
            for i in range(count):
                first, stride = (stage, i) == (1, 0), 2 if i == 0 else 1
                block = partial(_BlockV1, name=f"layer{stage}_{i}")
                x, before = block(width, stride, self.groups, first, self.dtype)(x, train=train)
            maps.append(x)
            preactivations.append(before)
        classifier = layers.Classifier(self.num_classes, name="linear")
        return layers.classify(x, classifier, maps, preactivations)


class _BlockV2(layers.Block):
    """A block that convolves half of the channels, or all channels in two branches with stride 2.

    `left` and `right` are PyTorch's names of (convolution, batch norm) in the two branches.
    """

    features: int
    stride: int
    left: tuple[tuple[str, str], ...]
    right: tuple[tuple[str, str], ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        conv_norm = partial(_conv_norm, train=train, dtype=self.dtype)
        half, channels = self.features // 2, x.shape[-1]
        if self.stride == 2:
            right = x
            left = conv_norm(x, self.left[0], channels, 3, 2, groups=channels)
            left_before = conv_norm(left, self.left[1], half, 1)
            left = functional.relu(left_before)
        else:
            left, right = jnp.split(x, 2, axis=-1)
            left_before = left
        right = functional.relu(conv_norm(right, self.right[0], half, 1))
        right = conv_norm(right, self.right[1], half, 3, self.stride, groups=half)
        right = conv_norm(right, self.right[2], half, 1)
        y = _shuffle(jnp.concatenate([left, functional.relu(right)], axis=-1), 2)
        return y, jnp.concatenate([left_before, right], axis=-1)


class _Names(NamedTuple):
    """PyTorch's names in a ShuffleNetV2.

    Attributes:
      stem: names of the first convolution and its norm.
      stage: format string of a stage's number.
      left: names in the left branch of a block with stride 2.
      right: names in the right branch of a block with stride 2.
      single: names in the only branch of a block with stride 1.
      last: names of the last convolution and its norm.
      head: name of the classifier.
    """

    stem: tuple[str, str]
    stage: str
    left: tuple[tuple[str, str], ...]
    right: tuple[tuple[str, str], ...]
    single: tuple[tuple[str, str], ...]
    last: tuple[str, str]
    head: str


_CIFAR_NAMES = _Names(
    stem=numbered(1),
    stage="layer{}",
    left=(numbered(1), numbered(2)),
    right=(numbered(3), numbered(4), numbered(5)),
    single=(numbered(1), numbered(2), numbered(3)),
    last=numbered(2),
    head="linear",
)
_BRANCH = tuple(in_sequence("branch2", i) for i in (0, 3, 5))
_TORCHVISION_NAMES = _Names(
    stem=in_sequence("conv1"),
    stage="stage{}",
    left=(in_sequence("branch1"), in_sequence("branch1", 2)),
    right=_BRANCH,
    single=_BRANCH,
    last=in_sequence("conv5"),
    head="fc",
)


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 of width 1: three stages that halve the maps, and a last 1x1 convolution.

    The preactivation of a map is not shuffled, as in the reference implementation.

    Attributes:
      num_classes: number of classes C.
      torchvision: whether to use torchvision's names, and its stem of a 3x3 convolution of stride 2
        and max-pooling, instead of a 1x1 convolution.
      dtype: type of convolutions; parameters and statistics are float32.
    """

    num_classes: int
    torchvision: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        conv_norm = partial(_conv_norm, train=train, dtype=self.dtype)
        names = _TORCHVISION_NAMES if self.torchvision else _CIFAR_NAMES
        kernel, stride, first = (3, 2, 2) if self.torchvision else (1, 1, 1)
        x = functional.relu(conv_norm(x, names.stem, 24, kernel, stride))
        if self.torchvision:
            x = max_pool(x)
        maps, preactivations = [x], [x]
        for stage, (width, count) in enumerate(((116, 4), (232, 8), (464, 4)), start=first):
            for i in range(count):
                stride, right = (2, names.right) if i == 0 else (1, names.single)
                block = partial(_BlockV2, name=f"{names.stage.format(stage)}_{i}")
                x, before = block(width, stride, names.left, right, self.dtype)(x, train=train)
            maps.append(x)
            preactivations.append(before)
        x = functional.relu(conv_norm(x, names.last, 1024, 1))
        classifier = layers.Classifier(self.num_classes, name=names.head)
        return layers.classify(x, classifier, maps, preactivations)


CIFAR = {
    "shufflenetv1_cifar": partial(ShuffleNetV1, widths=(240, 480, 960), blocks=(4, 8, 4), groups=3),
    "shufflenetv2_cifar": partial(ShuffleNetV2, torchvision=False),
}
IMAGENET = {"shufflenetv2_x1_0": partial(ShuffleNetV2, torchvision=True)}
