"""ShuffleNets: V1 (arXiv 1707.01083) for CIFAR, V2 (arXiv 1807.11164) for CIFAR and ImageNet."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax.networks import layers
from rrd_jax.networks.pool import max_pool

# All convolutions start as PyTorch starts them by default.
_conv_norm = partial(layers.conv_norm, kernel_init=layers.torch_default)


def _numbered(i: int) -> tuple[str, str]:
    return f"conv{i}", f"bn{i}"


def _shuffle(x: jax.Array, groups: int) -> jax.Array:
    """[..., channels] with the first channel of each group, then the second of each, and so on."""
    parts = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return parts.swapaxes(-1, -2).reshape(x.shape)


class _BlockV1(layers.Block):
    """Grouped 1x1, depthwise 3x3, grouped 1x1; with stride 2 beside the pooled input."""

    features: int
    stride: int
    groups: int
    first: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        features = self.features - (x.shape[-1] if self.stride == 2 else 0)
        inner = features // 4
        groups = 1 if self.first else self.groups  # the stem is too narrow to be grouped
        y = nn.relu(_conv_norm(x, _numbered(1), inner, 1, 1, self.dtype, groups, train=train))
        y = _shuffle(y, groups)
        y = _conv_norm(y, _numbered(2), inner, 3, self.stride, self.dtype, inner, train=train)
        y = nn.relu(y)
        y = _conv_norm(y, _numbered(3), features, 1, 1, self.dtype, self.groups, train=train)
        if self.stride == 2:
            x = nn.avg_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
            y = jnp.concatenate([y, x], axis=-1)
        else:
            y += x
        return nn.relu(y), y


class ShuffleNetV1(nn.Module):
    """ShuffleNetV1 for small images: a 1x1 stem, and three stages that halve the maps.

    Attributes:
      num_classes: C.
      widths: channels of each stage.
      blocks: in each stage.
      groups: of the 1x1 convolutions.
      dtype: what convolutions compute in; parameters and statistics are float32.
    """

    num_classes: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    groups: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> layers.Outputs:
        """Images [B, H, W, channels], normalised, to Outputs."""
        x = nn.relu(_conv_norm(x, _numbered(1), 24, 1, 1, self.dtype, train=train))
        maps, preactivations = [x], [x]
        for stage, (width, count) in enumerate(zip(self.widths, self.blocks, strict=True), start=1):
            for i in range(count):
                first, stride, name = (stage, i) == (1, 0), 2 if i == 0 else 1, f"layer{stage}_{i}"
                block = _BlockV1(width, stride, self.groups, first, self.dtype, name=name)
                x, before = block(x, train=train)
            maps.append(x)
            preactivations.append(before)
        embedding = layers.global_average(x)
        classifier = layers.Classifier(self.num_classes, name="linear")
        return layers.classified(classifier, embedding, maps, preactivations)


class _BlockV2(layers.Block):
    """Half of the channels pass, the others are convolved; with stride 2 all of them are, twice.

    `left` and `right` are PyTorch's names for (convolution, batch norm) of the two branches.
    """

    features: int
    stride: int
    left: tuple[tuple[str, str], ...]
    right: tuple[tuple[str, str], ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        half, dtype = self.features // 2, self.dtype
        if self.stride == 2:
            left, right = x, x
            width = x.shape[-1]
            left = _conv_norm(left, self.left[0], width, 3, 2, dtype, width, train=train)
            left = _conv_norm(left, self.left[1], half, 1, 1, dtype, train=train)
            left, left_before = nn.relu(left), left
        else:
            left, right = jnp.split(x, 2, axis=-1)
            left_before = left
        right = nn.relu(_conv_norm(right, self.right[0], half, 1, 1, dtype, train=train))
        right = _conv_norm(right, self.right[1], half, 3, self.stride, dtype, half, train=train)
        right = _conv_norm(right, self.right[2], half, 1, 1, dtype, train=train)
        y = _shuffle(jnp.concatenate([left, nn.relu(right)], axis=-1), 2)
        return y, jnp.concatenate([left_before, right], axis=-1)


# What PyTorch calls the parts, in the CIFAR network and in torchvision's: `left` and `right` are
# the branches of a block with stride 2, `alone` is the one with stride 1.
_CIFAR_NAMES = {
    "stem": _numbered(1),
    "stage": "layer{}",
    "left": (_numbered(1), _numbered(2)),
    "right": (_numbered(3), _numbered(4), _numbered(5)),
    "alone": (_numbered(1), _numbered(2), _numbered(3)),
    "last": _numbered(2),
    "head": "linear",
}
_BRANCH = (("branch2_0", "branch2_1"), ("branch2_3", "branch2_4"), ("branch2_5", "branch2_6"))
_TORCHVISION_NAMES = {
    "stem": ("conv1_0", "conv1_1"),
    "stage": "stage{}",
    "left": (("branch1_0", "branch1_1"), ("branch1_2", "branch1_3")),
    "right": _BRANCH,
    "alone": _BRANCH,
    "last": ("conv5_0", "conv5_1"),
    "head": "fc",
}


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 of width 1: three stages that halve the maps, and a last 1x1 convolution.

    A tap's twin is not shuffled, as in the reference.

    Attributes:
      num_classes: C.
      torchvision: its names, and a 3x3 stem of stride 2 with max-pool instead of 1x1.
      dtype: what convolutions compute in; parameters and statistics are float32.
    """

    num_classes: int
    torchvision: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> layers.Outputs:
        """Images [B, H, W, channels], normalised, to Outputs."""
        names = _TORCHVISION_NAMES if self.torchvision else _CIFAR_NAMES
        kernel, stride, first = (3, 2, 2) if self.torchvision else (1, 1, 1)
        x = nn.relu(_conv_norm(x, names["stem"], 24, kernel, stride, self.dtype, train=train))
        if self.torchvision:
            x = max_pool(x)
        maps, preactivations = [x], [x]
        for stage, (width, count) in enumerate(((116, 4), (232, 8), (464, 4)), start=first):
            for i in range(count):
                stride, right = (2, names["right"]) if i == 0 else (1, names["alone"])
                name = names["stage"].format(stage) + f"_{i}"
                block = _BlockV2(width, stride, names["left"], right, self.dtype, name=name)
                x, before = block(x, train=train)
            maps.append(x)
            preactivations.append(before)
        x = nn.relu(_conv_norm(x, names["last"], 1024, 1, 1, self.dtype, train=train))
        embedding = layers.global_average(x)
        classifier = layers.Classifier(self.num_classes, name=names["head"])
        return layers.classified(classifier, embedding, maps, preactivations)


CIFAR = {
    "shufflenetv1_cifar": partial(ShuffleNetV1, widths=(240, 480, 960), blocks=(4, 8, 4), groups=3),
    "shufflenetv2_cifar": partial(ShuffleNetV2, torchvision=False),
}
IMAGENET = {"shufflenetv2_x1_0": partial(ShuffleNetV2, torchvision=True)}
