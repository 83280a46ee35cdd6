"""Residual networks: the CIFAR family (6n + 2 layers) and torchvision's for ImageNet.

Modules carry PyTorch's names, so `layer1_0/conv1/kernel` is `layer1.0.conv1.weight` there.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax.models import layers
from rrd_jax.models.layers import BatchNorm, Conv


class _Block(nn.Module):
    """A residual block of 3x3 convolutions, or with `bottleneck` of 1x1, 3x3, 1x1."""

    width: int
    stride: int
    bottleneck: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        if self.bottleneck:
            plan = [(self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1)]
        else:
            plan = [(self.width, 3, self.stride), (self.width, 3, 1)]
        y = x
        for i, (features, kernel, stride) in enumerate(plan, start=1):
            y = Conv(features, kernel, stride, self.dtype, name=f"conv{i}")(y)
            y = BatchNorm(name=f"bn{i}")(y, train=train)
            if i < len(plan):
                y = nn.relu(y)
        if x.shape != y.shape:
            x = Conv(y.shape[-1], 1, self.stride, self.dtype, name="downsample_0")(x)
            x = BatchNorm(name="downsample_1")(x, train=train)
        y = y + x
        return nn.relu(y), y


class ResNet(nn.Module):
    """A residual network.

    Attributes:
      num_classes: C.
      blocks: number of blocks in each stage.
      widths: channels of the stem, then of the 3x3 convolutions in each stage.
      bottleneck: blocks of 1x1, 3x3, 1x1 that widen fourfold.
      imagenet_stem: 7x7 stride 2 and max-pool, instead of 3x3.
      dtype: what convolutions compute in; parameters and statistics are float32.
    """

    num_classes: int
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool = False
    imagenet_stem: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> layers.Outputs:
        """Images [B, H, W, channels], normalised, to Outputs."""
        kernel, stride = (7, 2) if self.imagenet_stem else (3, 1)
        x = Conv(self.widths[0], kernel, stride, self.dtype, name="conv1")(x)
        x = nn.relu(BatchNorm(name="bn1")(x, train=train))
        if self.imagenet_stem:
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        maps, preactivations = [x], [x]
        for stage, (count, width) in enumerate(
            zip(self.blocks, self.widths[1:], strict=True), start=1
        ):
            for i in range(count):
                stride = 2 if stage > 1 and i == 0 else 1
                block = _Block(width, stride, self.bottleneck, self.dtype, name=f"layer{stage}_{i}")
                x, before = block(x, train=train)
            maps.append(x)
            preactivations.append(before)
        embedding = layers.global_average(x)
        logits = layers.Classifier(self.num_classes, name="fc")(embedding)
        return layers.Outputs(logits, embedding, tuple(maps), tuple(preactivations))


def _cifar(depth: int, widths: tuple[int, ...] = (16, 16, 32, 64)) -> dict:
    return {"blocks": ((depth - 2) // 6,) * 3, "widths": widths}


_WIDE = (32, 64, 128, 256)
_IMAGENET = {"widths": (64, 64, 128, 256, 512), "imagenet_stem": True}

CIFAR = {f"resnet{depth}": _cifar(depth) for depth in (8, 14, 20, 32, 44, 56, 110)} | {
    "resnet8x4": _cifar(8, _WIDE),
    "resnet32x4": _cifar(32, _WIDE),
}
IMAGENET = {
    "resnet18": {"blocks": (2, 2, 2, 2), **_IMAGENET},
    "resnet34": {"blocks": (3, 4, 6, 3), **_IMAGENET},
    "resnet50": {"blocks": (3, 4, 6, 3), "bottleneck": True, **_IMAGENET},
}
