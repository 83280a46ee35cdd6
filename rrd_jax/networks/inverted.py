"""Networks of inverted residuals: EfficientNet, MobileNetV3 and MobileNetV4.

Names and modules are those of timm. Networks that compute another function in torchvision are
included under torchvision's names.

EfficientNet: arXiv 1905.11946, EfficientNetV2: 2104.00298, MobileNetV3: 1905.02244, MobileNetV4:
2404.10518.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.networks import layers, transformer
from rrd_jax.networks.contract import Outputs


class Shape(NamedTuple):
    """The shape of consecutive blocks of one kind.

    Attributes:
      kind: "plain", a convolution; "separable", a depthwise and a 1x1 convolution; "inverted", a
        1x1 expansion, a depthwise and a 1x1 convolution; "fused", the same with a single
        convolution for expansion and depthwise convolution; "universal", an inverted block with
        optional depthwise convolutions at the start and in the middle.
      count: number of blocks.
      kernel: kernel size of the (middle depthwise) convolution; 0 for none.
      stride: stride of the first block.
      expansion: factor of the channels inside a block.
      width: number of output channels.
      start: kernel size of the depthwise convolution at the start; 0 for none.
      squeeze: width of the squeeze and excitation as a share of the channels; 0 for none.
      relu: whether the activation is a ReLU, instead of the network's activation.
      skip: whether the input is added to the result of a plain convolution.
    """

    kind: str
    count: int
    kernel: int
    stride: int
    expansion: float
    width: int
    start: int = 0
    squeeze: float = 0.0
    relu: bool = False
    skip: bool = False


def divisible(width: float) -> int:
    """Rounds a width to the nearest multiple of 8 that is at least nine tenths of the width."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


class _Block(layers.Block):
    """A block of any kind; its input is added to the result if the shapes are equal."""

    shape: Shape
    stride: int
    activation: Callable
    gate: Callable
    squeeze_inside: bool
    epsilon: float
    momentum: float
    drop: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = getattr(self, f"_{self.shape.kind}")(x, train)
        is_added = self.shape.skip or self.shape.kind != "plain"
        if self.stride == 1 and x.shape == y.shape and is_added:
            y = x + transformer.DropPath(self.drop, name="drop_path")(y, train=train)
        return y

    def _act(self, x):
        return functional.relu(x) if self.shape.relu else self.activation(x)

    def _conv(self, x, names, features, kernel, train, stride=1, groups=1):
        norm = {"epsilon": self.epsilon, "momentum": self.momentum}
        options = {"train": train, "dtype": self.dtype, "groups": groups, "norm": norm}
        return layers.conv_norm(x, names, features, kernel, stride, **options)

    def _squeezed(self, x, before):
        """Applies squeeze and excitation in a block with `before` input channels."""
        if not self.shape.squeeze:
            return x
        if self.squeeze_inside:
            width, activation = divisible(x.shape[-1] * self.shape.squeeze), functional.relu
        else:
            width, activation = round(before * self.shape.squeeze), self._act
        names = ("conv_reduce", "conv_expand")
        return layers.Squeeze(width, activation, self.gate, names, self.dtype, name="se")(x)

    def _plain(self, x, train):
        shape = self.shape
        y = self._conv(x, ("conv", "bn1"), shape.width, shape.kernel, train, self.stride)
        return self._act(y)

    def _separable(self, x, train):
        shape, before = self.shape, x.shape[-1]
        x = self._conv(x, ("conv_dw", "bn1"), before, shape.kernel, train, self.stride, before)
        x = self._squeezed(self._act(x), before)
        return self._conv(x, ("conv_pw", "bn2"), shape.width, 1, train)

    def _inverted(self, x, train):
        shape, before = self.shape, x.shape[-1]
        inside = divisible(before * shape.expansion)
        x = self._act(self._conv(x, ("conv_pw", "bn1"), inside, 1, train))
        x = self._conv(x, ("conv_dw", "bn2"), inside, shape.kernel, train, self.stride, inside)
        x = self._squeezed(self._act(x), before)
        return self._conv(x, ("conv_pwl", "bn3"), shape.width, 1, train)

    def _fused(self, x, train):
        shape, before = self.shape, x.shape[-1]
        inside = divisible(before * shape.expansion)
        x = self._conv(x, ("conv_exp", "bn1"), inside, shape.kernel, train, self.stride)
        x = self._squeezed(self._act(x), before)
        return self._conv(x, ("conv_pwl", "bn2"), shape.width, 1, train)

    def _universal(self, x, train):
        shape = self.shape
        inside = divisible(x.shape[-1] * shape.expansion)

        def conv(x, name, features, kernel, stride=1, *, depthwise=False):
            groups = x.shape[-1] if depthwise else 1
            layer = layers.ConvNorm(features, kernel, stride, groups, self.dtype, name=name)
            return layer(x, train=train)

        if shape.start:
            stride = 1 if shape.kernel else self.stride
            x = conv(x, "dw_start", x.shape[-1], shape.start, stride, depthwise=True)
        x = self._act(conv(x, "pw_exp", inside, 1))
        if shape.kernel:
            x = self._act(conv(x, "dw_mid", inside, shape.kernel, self.stride, depthwise=True))
        return conv(x, "pw_proj", shape.width, 1)


class Inverted(nn.Module):
    """A network of inverted residuals.

    The maps are the results of the stem and of the last block of each resolution. They are their
    own preactivations, since blocks end without an activation.

    Attributes:
      num_classes: number of classes C.
      stem: channels of the first convolution.
      stages: the shapes of the blocks of each stage.
      head: channels of the last 1x1 convolution.
      activation: the activation function.
      gate: the activation that computes channel weights.
      pooled_head: whether the last convolution reads the average over positions (MobileNetV3 and
        V4).
      norm_head: whether the last convolution has a batch norm instead of a bias.
      squeeze_inside: whether the width of squeeze and excitation is a share of the channels inside
        a block, instead of its input channels.
      epsilon: epsilon of the batch norms.
      momentum: momentum of the batch norms.
      drop_path: factor r of the drop-path rates: the rate of block i of n is r * i / n.
      dtype: type of convolutions; parameters and statistics are float32.
    """

    num_classes: int
    stem: int
    stages: tuple[tuple[Shape, ...], ...]
    head: int
    activation: Callable = nn.silu
    gate: Callable = nn.sigmoid
    pooled_head: bool = False
    norm_head: bool = True
    squeeze_inside: bool = False
    epsilon: float = 1e-5
    momentum: float = 0.9
    drop_path: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @property
    def decay_head(self) -> tuple[str, ...]:
        """The modules in the classifier's layer; see `networks.decay_groups`."""
        return ("conv_head", "norm_head", "classifier") if self.pooled_head else ()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        norm = {"epsilon": self.epsilon, "momentum": self.momentum}
        options = {"train": train, "dtype": self.dtype, "norm": norm}
        x = self.activation(layers.conv_norm(x, ("conv_stem", "bn1"), self.stem, 3, 2, **options))
        maps = [x]
        blocks = list(self.blocks())
        for i, (name, shape, stride) in enumerate(blocks):
            y = _Block(
                shape,
                stride,
                self.activation,
                self.gate,
                self.squeeze_inside,
                self.epsilon,
                self.momentum,
                # As in timm, the last block's rate is below `drop_path`, unlike in other families.
                self.drop_path * i / len(blocks),
                self.dtype,
                name=name,
            )(x, train=train)
            if stride > 1 and maps[-1] is not x:
                maps.append(x)
            x = y
        maps.append(x)
        patches = None
        if self.pooled_head:
            patches = x
            x = layers.average(x)[:, None, None]
        if self.norm_head:
            name = "norm_head" if self.pooled_head else "bn2"
            x = layers.conv_norm(x, ("conv_head", name), self.head, 1, **options)
        else:
            conv = layers.Conv(self.head, 1, dtype=self.dtype, use_bias=True, name="conv_head")
            x = conv(x)
        classifier = layers.Classifier(self.num_classes, name="classifier")
        return layers.classify(self.activation(x), classifier, maps, maps, patches)

    def blocks(self) -> Iterator[tuple[str, Shape, int]]:
        """Yields the name, shape and stride of each block."""
        for i, stage in enumerate(self.stages):
            position = 0
            for shape in stage:
                for repeat in range(shape.count):
                    yield f"blocks_{i}_{position}", shape, shape.stride if repeat == 0 else 1
                    position += 1


def _efficientnet(width: float, depth: float, squeeze: float = 0.25, **more) -> partial:
    published = (
        ("separable", 1, 3, 1, 1, 16),
        ("inverted", 2, 3, 2, 6, 24),
        ("inverted", 2, 5, 2, 6, 40),
        ("inverted", 3, 3, 2, 6, 80),
        ("inverted", 3, 5, 1, 6, 112),
        ("inverted", 4, 5, 2, 6, 192),
        ("inverted", 1, 3, 1, 6, 320),
    )
    stages = tuple(
        (
            Shape(
                kind,
                math.ceil(count * depth),
                kernel,
                stride,
                expansion,
                divisible(channels * width),
                squeeze=squeeze,
            ),
        )
        for kind, count, kernel, stride, expansion, channels in published
    )
    stem, head = divisible(32 * width), divisible(1280 * width)
    return partial(Inverted, stem=stem, stages=stages, head=head, **more)


_V2_SMALL = (
    (Shape("plain", 2, 3, 1, 1, 24, skip=True),),
    (Shape("fused", 4, 3, 2, 4, 48),),
    (Shape("fused", 4, 3, 2, 4, 64),),
    (Shape("inverted", 6, 3, 2, 4, 128, squeeze=0.25),),
    (Shape("inverted", 9, 3, 1, 6, 160, squeeze=0.25),),
    (Shape("inverted", 15, 3, 2, 6, 256, squeeze=0.25),),
)
_RELU, _SQUEEZE = {"relu": True}, {"squeeze": 0.25}
_V3_SMALL = (
    (Shape("separable", 1, 3, 2, 1, 16, **_SQUEEZE, **_RELU),),
    (
        Shape("inverted", 1, 3, 2, 4.5, 24, **_RELU),
        Shape("inverted", 1, 3, 1, 3.67, 24, **_RELU),
    ),
    (
        Shape("inverted", 1, 5, 2, 4, 40, **_SQUEEZE),
        Shape("inverted", 2, 5, 1, 6, 40, **_SQUEEZE),
    ),
    (Shape("inverted", 2, 5, 1, 3, 48, **_SQUEEZE),),
    (Shape("inverted", 3, 5, 2, 6, 96, **_SQUEEZE),),
    (Shape("plain", 1, 1, 1, 1, 576),),
)
_V3_LARGE = (
    (Shape("separable", 1, 3, 1, 1, 16, **_RELU),),
    (Shape("inverted", 1, 3, 2, 4, 24, **_RELU), Shape("inverted", 1, 3, 1, 3, 24, **_RELU)),
    (Shape("inverted", 3, 5, 2, 3, 40, **_SQUEEZE, **_RELU),),
    (
        Shape("inverted", 1, 3, 2, 6, 80),
        Shape("inverted", 1, 3, 1, 2.5, 80),
        Shape("inverted", 2, 3, 1, 2.3, 80),
    ),
    (Shape("inverted", 2, 3, 1, 6, 112, **_SQUEEZE),),
    (Shape("inverted", 3, 5, 2, 6, 160, **_SQUEEZE),),
    (Shape("plain", 1, 1, 1, 1, 960),),
)


def _universal(*blocks: tuple[int, ...]) -> tuple[Shape, ...]:
    """Returns shapes from (count, start kernel, middle kernel, stride, expansion, width)."""
    return tuple(
        Shape("universal", count, middle, stride, expansion, width, start)
        for count, start, middle, stride, expansion, width in blocks
    )


_V4_SMALL = (
    (Shape("plain", 1, 3, 2, 1, 32), Shape("plain", 1, 1, 1, 1, 32)),
    (Shape("plain", 1, 3, 2, 1, 96), Shape("plain", 1, 1, 1, 1, 64)),
    _universal((1, 5, 5, 2, 3, 96), (4, 0, 3, 1, 2, 96), (1, 3, 0, 1, 4, 96)),
    _universal(
        (1, 3, 3, 2, 6, 128),
        (1, 5, 5, 1, 4, 128),
        (1, 0, 5, 1, 4, 128),
        (1, 0, 5, 1, 3, 128),
        (2, 0, 3, 1, 4, 128),
    ),
    (Shape("plain", 1, 1, 1, 1, 960),),
)
_V4_MEDIUM = (
    (Shape("fused", 1, 3, 2, 4, 48),),
    _universal((1, 3, 5, 2, 4, 80), (1, 3, 3, 1, 2, 80)),
    _universal(
        (1, 3, 5, 2, 6, 160),
        (2, 3, 3, 1, 4, 160),
        (1, 3, 5, 1, 4, 160),
        (1, 3, 3, 1, 4, 160),
        (1, 3, 0, 1, 4, 160),
        (1, 0, 0, 1, 2, 160),
        (1, 3, 0, 1, 4, 160),
    ),
    _universal(
        (1, 5, 5, 2, 6, 256),
        (1, 5, 5, 1, 4, 256),
        (2, 3, 5, 1, 4, 256),
        (1, 0, 0, 1, 4, 256),
        (1, 3, 0, 1, 4, 256),
        (1, 3, 5, 1, 2, 256),
        (1, 5, 5, 1, 4, 256),
        (2, 0, 0, 1, 4, 256),
        (1, 5, 0, 1, 2, 256),
    ),
    (Shape("plain", 1, 1, 1, 1, 960),),
)
_V3 = {
    "stem": 16,
    "activation": nn.hard_swish,
    "gate": nn.hard_sigmoid,
    "pooled_head": True,
    "norm_head": False,
    "squeeze_inside": True,
}


def _scaled(stages: tuple[tuple[Shape, ...], ...], width: float) -> tuple[tuple[Shape, ...], ...]:
    """Returns stages with scaled widths."""
    return tuple(
        tuple(shape._replace(width=divisible(shape.width * width)) for shape in stage)
        for stage in stages
    )


_V3_NORM = {"epsilon": 1e-3, "momentum": 0.99}
_V4 = {"stem": 32, "activation": functional.relu, "pooled_head": True, "head": 1280}

# Torchvision's networks that compute other functions than timm's networks with the same parameters.
TORCHVISION = {
    "efficientnet_v2_s": partial(Inverted, stem=24, stages=_V2_SMALL, head=1280, epsilon=1e-3),
    "mobilenet_v3_small": partial(Inverted, stages=_V3_SMALL, head=1024, **_V3, **_V3_NORM),
    "mobilenet_v3_large": partial(Inverted, stages=_V3_LARGE, head=1280, **_V3, **_V3_NORM),
}
IMAGENET = {
    "efficientnet_b0": _efficientnet(1.0, 1.0),
    "efficientnet_b1": _efficientnet(1.0, 1.1),
    "efficientnet_b2": _efficientnet(1.1, 1.2),
    "efficientnet_b3": _efficientnet(1.2, 1.4),
    "efficientnet_b4": _efficientnet(1.4, 1.8),
    "efficientnet_lite0": _efficientnet(1.0, 1.0, squeeze=0.0, activation=nn.relu6),
    "efficientnetv2_s": partial(Inverted, stem=24, stages=_V2_SMALL, head=1280),
    "mobilenetv3_small_100": partial(Inverted, stages=_V3_SMALL, head=1024, **_V3),
    "mobilenetv3_large_100": partial(Inverted, stages=_V3_LARGE, head=1280, **_V3),
    # timm does not scale the stem of the narrowest network.
    "mobilenetv3_small_050": partial(Inverted, stages=_scaled(_V3_SMALL, 0.5), head=1024, **_V3),
    "mobilenetv3_small_075": partial(Inverted, stages=_scaled(_V3_SMALL, 0.75), head=1024, **_V3),
    "mobilenetv3_large_075": partial(Inverted, stages=_scaled(_V3_LARGE, 0.75), head=1280, **_V3),
    "mobilenetv4_conv_small": partial(Inverted, stages=_V4_SMALL, **_V4),
    "mobilenetv4_conv_medium": partial(Inverted, stages=_V4_MEDIUM, **_V4),
    **TORCHVISION,
}
# Image sizes of networks that were not published for 224 pixels.
SIDES = {
    "efficientnet_b1": 240,
    "efficientnet_b2": 260,
    "efficientnet_b3": 300,
    "efficientnet_b4": 380,
    "efficientnetv2_s": 384,
    "efficientnet_v2_s": 384,
}
