"""Layers that the network families share, with the numerics of PyTorch."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from rrd_jax import errors, functional
from rrd_jax.cpu import convolutions
from rrd_jax.networks import convolution
from rrd_jax.networks.contract import Outputs

kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# PyTorch's default for convolutions and linear layers: uniform in +-1/sqrt(fan_in).
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Callable:
    """Returns PyTorch's default initializer of biases: uniform in +-1/sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape):
        return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

    return init


class Block(nn.Module):
    """Base class of modules (x, **keywords) -> result that `networks.remat` may recompute."""


Leaves = dict[tuple[str, ...], jax.Array]


class Joined(Block):
    """Base class of blocks whose branches `teacher.fold` merges into one convolution.

    After folding, the result of `join` replaces the parameters of the block.
    """

    def join(self, params: Leaves, stats: Leaves) -> Leaves:
        """Computes the parameters of the merged block.

        Args:
          params: parameters by their paths in the block.
          stats: running statistics by their paths in the block.

        Returns:
          The parameters for evaluation by their paths in the block.
        """
        raise NotImplementedError


class Conv(nn.Module):
    """A convolution with PyTorch's symmetric padding of (kernel - 1) / 2.

    Attributes:
      features: number of output channels.
      kernel: height and width of the kernel: odd, or equal to the stride, then without padding.
      stride: stride of both axes.
      dtype: type of the convolution; its parameters are float32.
      groups: number of groups into which the channels are split.
      use_bias: whether a bias is added.
      kernel_init: initializer of the kernel [kernel, kernel, channels / groups, features].
      default_bias: whether the bias starts at PyTorch's default values, instead of 0.
      space_to_depth: whether `convolution.convolve_pairs` computes the convolution, which must be
        7x7 of stride 2.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    dtype: jnp.dtype = jnp.float32
    groups: int = 1
    use_bias: bool = False
    kernel_init: Callable = kaiming_fan_out
    default_bias: bool = False
    space_to_depth: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, channels] to [B, H / stride, W / stride, features]."""
        shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.space_to_depth:
            y = convolution.convolve_pairs(x, kernel)
        else:
            y = convolution.convolve(x, kernel, stride=self.stride)
        if self.use_bias:
            fan_in = math.prod(shape[:3])
            start = torch_bias(fan_in) if self.default_bias else nn.initializers.zeros
            y = functional.add_bias(y, self.param("bias", start, (self.features,)))
        return checkpoint_name(y, "convolution")


class BatchNorm(nn.Module):
    """Batch norm with PyTorch's running variance, which is unbiased; that of Flax is biased.

    Statistics are float32 and span the whole (global) batch; the result has the input's dtype.

    Attributes:
      momentum: decay of the running statistics in each update.
      epsilon: constant added to the variance.
      start: initial value of the scale.
      follows: name of the convolution in the same module whose result only this batch norm reads;
        "" for no such convolution. `teacher.fold` merges the two.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    start: float = 1.0
    follows: str = ""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalizes [..., channels] by the batch's statistics (train) or the running ones."""
        features = x.shape[-1]
        bias = self.param("bias", nn.initializers.zeros, (features,))
        if not (train or self.is_initializing() or self.has_variable("params", "scale")):
            # `teacher.fold` removed all parameters except the bias.
            return (x + functional.per_channel(bias, x)).astype(x.dtype)
        scale = self.param("scale", nn.initializers.constant(self.start), (features,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,))
        if train:
            # One pass for mean and variance saves one pass in the gradient, too; these reductions
            # dominate small steps. The running mean is close to the batch mean, as `moments`
            # requires.
            mean, var = functional.moments(x, functional.center(x, running_mean.value))
            mean, var = checkpoint_name((mean, var), "statistics")
            if not self.is_initializing():
                count = math.prod(x.shape[:-1])
                unbiased = var * (count / max(count - 1, 1))
                decay = self.momentum
                running_mean.value = decay * running_mean.value + (1 - decay) * mean
                running_var.value = decay * running_var.value + (1 - decay) * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        # XLA fuses a single scale and shift, in float32.
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return functional.affine(x, factor, bias - mean * factor)


class GroupNorm(nn.Module):
    """Group norm (arXiv 1803.08494), in float32; the result has the input's dtype.

    Attributes:
      groups: number of groups of channels, each normalized over its channels and all positions.
      epsilon: constant added to the variance.
    """

    groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes [B, H, W, channels]."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        wide = x.astype(jnp.float32).reshape(*x.shape[:3], self.groups, -1)
        centered = wide - wide.mean((1, 2, 4), keepdims=True)
        factor = jax.lax.rsqrt(jnp.mean(centered**2, (1, 2, 4), keepdims=True) + self.epsilon)
        y = (centered * factor).reshape(x.shape)
        y = y * functional.per_channel(scale, y) + functional.per_channel(bias, y)
        return y.astype(x.dtype)


def conv_norm(
    x: jax.Array,
    names: tuple[str, str],
    features: int,
    kernel: int,
    stride: int = 1,
    *,
    train: bool,
    norm_groups: int = 0,
    norm: Mapping[str, Any] | None = None,
    **options: Any,
) -> jax.Array:
    """Applies a convolution and a norm, as submodules of the calling module.

    Args:
      x: [B, H, W, channels].
      names: names of the convolution and the norm.
      features: number of output channels.
      kernel: height and width of the kernel.
      stride: stride of both axes.
      train: see BatchNorm.
      norm_groups: number of groups of a GroupNorm; 0 for a BatchNorm.
      norm: further attributes of BatchNorm.
      **options: further attributes of Conv.
    """
    x = Conv(features, kernel, stride, name=names[0], **options)(x)
    if norm_groups:
        return GroupNorm(norm_groups, name=names[1])(x)
    return BatchNorm(name=names[1], follows=names[0], **(norm or {}))(x, train=train)


class Squeeze(nn.Module):
    """Squeeze and excitation (arXiv 1709.01507): channel weights computed from channel averages.

    Attributes:
      width: number of channels between the two convolutions.
      activation: activation between the two convolutions.
      gate: activation that converts the result of the second convolution to weights.
      names: names of the convolutions.
      dtype: type of the computation.
      default_start: whether kernels and biases start at PyTorch's default values, instead of
        `kaiming_fan_out` and 0.
    """

    width: int
    activation: Callable
    gate: Callable
    names: tuple[str, str]
    dtype: jnp.dtype
    default_start: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, H, W, channels] with weighted channels."""
        conv = functools.partial(
            Conv,
            kernel=1,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=torch_default if self.default_start else kaiming_fan_out,
            default_bias=self.default_start,
        )
        first, second = self.names
        mean = functional.wide(x).mean((1, 2), keepdims=True).astype(x.dtype)
        y = self.activation(conv(self.width, name=first)(mean))
        return x * self.gate(conv(x.shape[-1], name=second)(y))


class ConvNorm(nn.Module):
    """A module of a convolution and its batch norm.

    Attributes:
      features: number of output channels.
      kernel: height and width of the kernel.
      stride: stride of both axes.
      groups: number of groups into which the channels are split.
      dtype: type of the convolution.
      names: names of the convolution and the batch norm.
      kernel_init: initializer of the kernel.
      start: initial value of the batch norm's scale.
    """

    features: int
    kernel: int
    stride: int
    groups: int
    dtype: jnp.dtype
    names: tuple[str, str] = ("conv", "bn")
    kernel_init: Callable = kaiming_fan_out
    start: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, channels] to [B, H / stride, W / stride, features]."""
        return conv_norm(
            x,
            self.names,
            self.features,
            self.kernel,
            self.stride,
            train=train,
            norm={"start": self.start},
            dtype=self.dtype,
            groups=self.groups,
            kernel_init=self.kernel_init,
        )


class Sequential(nn.Module):
    """Modules that are applied one after another.

    Attributes:
      modules: factories of the modules by name.
    """

    modules: Mapping[str, Callable[..., nn.Module]]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Applies the modules (x, train=...) -> result to maps [B, H, W, channels]."""
        for name, create in self.modules.items():
            x = create(name=name)(x, train=train)
        return x


def numbered(i: int) -> tuple[str, str]:
    """Returns the names of a convolution and its norm that are attributes of a PyTorch module."""
    return f"conv{i}", f"bn{i}"


def in_sequence(name: str, i: int = 0) -> tuple[str, str]:
    """Returns the names of a convolution and its norm at i and i + 1 of a PyTorch Sequential."""
    return f"{name}_{i}", f"{name}_{i + 1}"


class Classifier(nn.Module):
    """A linear layer in float32, with the initial weights of PyTorch's Linear.

    Attributes:
      features: number of classes; 0 for a network without a classifier, which has no logits.
      kernel_init: initializer of the kernel [D, features].
      zero_bias: whether the bias starts at 0.
    """

    features: int
    kernel_init: Callable = torch_default
    zero_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array | tuple[()]:
        """Maps [B, D] to [B, features], or to () if `features` is 0."""
        if not self.features:
            return ()
        start = nn.initializers.zeros if self.zero_bias else torch_bias(x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", start, (self.features,))
        return functional.linear(x, kernel, bias)

    @property
    def head(self) -> Any:
        """The `head` of Outputs: the parameters, available after the layer was called."""
        return dict(self.variables["params"]) if self.features else ()


def even_taps(depth: int) -> set[int]:
    """Returns the indices of four evenly spaced blocks, including the last."""
    return {-(-depth * (i + 1) // 4) - 1 for i in range(4)}


def average(x: jax.Array) -> jax.Array:
    """Averages maps [B, H, W, D] over all positions, to [B, D] float32.

    Raises:
      InputError: the maps have no positions, since the images are too small.
    """
    if 0 in x.shape[1:3]:
        raise errors.InputError(
            "the images are too small for this network: the maps before the last pooling are"
            f" {x.shape[1]}x{x.shape[2]}; increase data.image_size"
        )
    return jnp.mean(convolutions.unfused(x).astype(jnp.float32), axis=(1, 2))


def classify(
    x: jax.Array,
    classifier: Classifier,
    maps: Sequence[jax.Array],
    preactivations: Sequence[jax.Array],
    patches: jax.Array | None = None,
) -> Outputs:
    """Computes Outputs from the last map x [B, H, W, D], whose average is the embedding.

    Args:
      x: the last map.
      classifier: the classifier, which reads the embedding.
      maps: see `Outputs`.
      preactivations: see `Outputs`.
      patches: see `Outputs`; None for x.

    Raises:
      InputError: x has no positions, since the images are too small.
    """
    embedding = average(x)
    logits = classifier(embedding)
    patches = x if patches is None else patches
    return Outputs(logits, embedding, tuple(maps), tuple(preactivations), classifier.head, patches)


class Head(nn.Module):
    """A module that runs `classify` with a classifier named `fc`, as in timm.

    Attributes:
      num_classes: number of classes C.
      kernel_init: see Classifier.
      zero_bias: see Classifier.
    """

    num_classes: int
    kernel_init: Callable = torch_default
    zero_bias: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        maps: Sequence[jax.Array],
        preactivations: Sequence[jax.Array],
    ) -> Outputs:
        """Computes Outputs; see `classify`."""
        classifier = Classifier(self.num_classes, self.kernel_init, self.zero_bias, name="fc")
        return classify(x, classifier, maps, preactivations)
