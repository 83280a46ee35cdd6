"""EfficientViT of MIT (arXiv 2205.14756), with timm's names and modules."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.networks import layers, transformer
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.family import Family


class _Conv(nn.Module):
    """A convolution with an optional batch norm and an optional activation."""

    features: int
    activation: Callable
    epsilon: float
    dtype: jnp.dtype
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    normed: bool = True
    activated: bool = True
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        options = {
            **{"dtype": self.dtype, "groups": self.groups, "kernel_init": layers.torch_default},
            **{"use_bias": self.use_bias, "default_bias": True},
        }
        if self.normed:
            names, norm = ("conv", "norm"), {"epsilon": self.epsilon}
            sizes = (self.features, self.kernel, self.stride)
            x = layers.conv_norm(x, names, *sizes, train=train, norm=norm, **options)
        else:
            x = layers.Conv(self.features, self.kernel, self.stride, name="conv", **options)(x)
        return self.activation(x) if self.activated else x


class _Convs(nn.Module):
    """Two or three convolutions, the last without an activation.

    Attributes:
      conv: factory of convolutions.
      kind: "separable", a depthwise 3x3 and a 1x1 convolution; "plain", two 3x3 convolutions;
        "inverted", a 1x1 expansion, a depthwise 3x3 and a 1x1 convolution; "fused", a 3x3 expansion
        and a 1x1 convolution.
      width: number of output channels.
      stride: stride of a 3x3 convolution.
      expansion: factor of the channels inside.
      few_norms: whether the other convolutions have biases instead of batch norms.
    """

    conv: Callable
    kind: str
    width: int
    stride: int = 1
    expansion: int = 1
    few_norms: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        inside = self.expansion * x.shape[-1]
        spatial = {"features": inside, "kernel": 3, "stride": self.stride}
        depthwise = {**spatial, "groups": inside}
        before, last = {
            "separable": ({"depth_conv": depthwise}, "point_conv"),
            "plain": ({"conv1": spatial}, "conv2"),
            "inverted": (
                {"inverted_conv": {"features": inside}, "depth_conv": depthwise},
                "point_conv",
            ),
            "fused": ({"spatial_conv": spatial}, "point_conv"),
        }[self.kind]
        for name, sizes in before.items():
            conv = self.conv(normed=not self.few_norms, use_bias=self.few_norms, name=name, **sizes)
            x = conv(x, train=train)
        kernel = 3 if self.kind == "plain" else 1
        return self.conv(self.width, kernel=kernel, activated=False, name=last)(x, train=train)


class _Attention(nn.Module):
    """Linear attention with heads that read the queries, keys and values of two scales."""

    conv: Callable
    head_width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        batch, *grid, width = x.shape
        heads = width // self.head_width
        inside = 3 * heads * self.head_width
        qkv = self.conv(inside, normed=False, activated=False, name="qkv")(x, train=train)
        conv = partial(
            layers.Conv, inside, dtype=self.dtype, kernel_init=layers.torch_default, stride=1
        )
        near = conv(kernel=5, groups=inside, name="aggreg_0_0")(qkv)
        near = conv(kernel=1, groups=3 * heads, name="aggreg_0_1")(near)
        qkv = functional.wide(jnp.concatenate([qkv, near], axis=-1))
        qkv = qkv.reshape(batch, -1, 2 * heads, 3, self.head_width)
        y = _linear_attention(*jnp.moveaxis(qkv, 3, 0)).astype(self.dtype)
        y = y.reshape(batch, *grid, -1)
        return self.conv(width, activated=False, name="proj")(y, train=train)


def _linear_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes attention with scores relu(query) relu(key)', in linear time.

    Args:
      query: [B, N, heads, D], like key and value.
      key: the keys.
      value: the values.
    """
    # Sums over all positions need full precision also on devices that round factors by default.
    einsum = partial(jnp.einsum, precision="highest")
    query, key = functional.relu(query), functional.relu(key)
    sums = einsum("bnhd,bnhe->bhde", key, value)
    norms = einsum("bnhd,bhd->bnh", query, key.sum(1))
    return einsum("bnhd,bhde->bnhe", query, sums) / (norms[..., None] + 1e-5)


class _Residual(layers.Block):
    """A module `main`, whose result is added to its input unless the size changes."""

    main: Callable
    is_added: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.main(name="main")(x, train=train)
        return x + y if self.is_added else y


class _Block(layers.Block):
    """Attention between all positions, and convolutions for near positions."""

    attention: Callable
    convolutions: Callable

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = _Residual(self.attention, name="context_module")(x, train=train)
        return _Residual(self.convolutions, name="local_module")(x, train=train)


class _Head(nn.Module):
    """A 1x1 convolution, an average over positions, a linear layer with a norm, the classifier."""

    num_classes: int
    conv: Callable
    widths: tuple[int, int]
    activation: Callable
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[Any, jax.Array, Any]:
        # The epsilon of this batch norm is PyTorch's default in all networks.
        x = self.conv(self.widths[0], epsilon=1e-5, name="in_conv")(x, train=train)
        linear = transformer.Linear(
            self.widths[1],
            use_bias=False,
            kernel_init=layers.torch_default,
            name="classifier_0",
        )
        norm = transformer.LayerNorm(self.epsilon, name="classifier_1")
        embedding = self.activation(norm(linear(layers.average(x))))
        classifier = layers.Classifier(self.num_classes, name="classifier_4")
        return classifier(embedding), embedding, classifier.head


class EfficientViT(nn.Module):
    """An EfficientViT: inverted residuals, and linear attention in the last stages.

    The maps end without an activation, so they are their own preactivations. The patches are the
    last map.

    Attributes:
      num_classes: number of classes C.
      widths: channels of the stem and of each stage.
      blocks: number of blocks in the stem and in each stage; the block of stride 2 is included in
        stages without attention, unless the network is large.
      head_width: channels of each attention head.
      head: channels of the last convolution, and length of the embedding.
      large: whether the network is of the form L1 to L3: without depthwise convolutions in the
        first stages, with attention only in the last stage, and with approximate GELUs instead of
        hard swish.
      dtype: type of convolutions; attention, parameters and statistics are float32.
    """

    decay_blocks = r"stages_\d+/blocks_\d+"
    num_classes: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    head: tuple[int, int]
    head_width: int = 32
    large: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        activation = transformer.gelu_tanh if self.large else nn.hard_swish
        epsilon = 1e-7 if self.large else 1e-5
        conv = partial(_Conv, activation=activation, epsilon=epsilon, dtype=self.dtype)
        kind = "plain" if self.large else "separable"
        block = partial(_Residual, partial(_Convs, conv, kind, self.widths[0]))
        stem = {f"res{i}": block for i in range(self.blocks[0])}
        first = partial(conv, self.widths[0], kernel=3, stride=2)
        x = layers.Sequential({"in_conv": first, **stem}, name="stem")(x, train=train)
        maps = [x]
        for i in range(1, len(self.widths)):
            blocks = {f"blocks_{j}": block for j, block in enumerate(self._stage(i, conv))}
            x = layers.Sequential(blocks, name=f"stages_{i - 1}")(x, train=train)
            maps.append(x)
        head = _Head(self.num_classes, conv, self.head, activation, epsilon, name="head")
        logits, embedding, classifier = head(x, train=train)
        return Outputs(logits, embedding, tuple(maps), tuple(maps), classifier, x)

    def _stage(self, i: int, conv: Callable) -> list[Callable]:
        """Returns the factories of the blocks of stage i, counted from 1."""
        has_attention, few_norms = i > (3 if self.large else 2), i > 2
        kind = "fused" if self.large and not few_norms else "inverted"
        larger, smaller = ((24, 6) if has_attention else (16, 4)) if self.large else (4, 4)
        convs = partial(_Convs, conv, kind, self.widths[i], few_norms=few_norms)
        first = partial(_Residual, partial(convs, stride=2, expansion=larger), is_added=False)
        block = partial(_Residual, partial(convs, expansion=smaller))
        if has_attention:
            attention = partial(_Attention, conv, self.head_width, self.dtype)
            block = partial(_Block, attention, partial(convs, expansion=smaller))
        count = self.blocks[i] - (not self.large and not has_attention)
        return [first, *[block] * count]


def _widths(first: int) -> tuple[int, ...]:
    return tuple(first * 2**i for i in range(5))


_SHAPES = {
    "b0": {"widths": _widths(8), "blocks": (1, 2, 2, 2, 2), "head": (1024, 1280), "head_width": 16},
    "b1": {
        **{"widths": _widths(16), "blocks": (1, 2, 3, 3, 4)},
        **{"head": (1536, 1600), "head_width": 16},
    },
    "b2": {"widths": _widths(24), "blocks": (1, 3, 4, 4, 6), "head": (2304, 2560)},
    "b3": {"widths": _widths(32), "blocks": (1, 4, 6, 6, 9), "head": (2304, 2560)},
    "l1": {"widths": _widths(32), "blocks": (1, 1, 1, 6, 6), "head": (3072, 3200), "large": True},
    "l2": {"widths": _widths(32), "blocks": (1, 2, 2, 8, 8), "head": (3072, 3200), "large": True},
    "l3": {"widths": _widths(64), "blocks": (1, 2, 2, 8, 8), "head": (6144, 6400), "large": True},
}
FAMILY = Family(
    EfficientViT,
    {f"efficientvit_{size}": partial(EfficientViT, **shape) for size, shape in _SHAPES.items()},
    image_size=224,
    timm_ends=("stem.in_conv.conv", "head.classifier.4"),
)
