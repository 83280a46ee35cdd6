"""What the network families share: their output type, and layers that compute as PyTorch's do."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from rrd_jax import errors, functional


class Outputs(NamedTuple):
    """What every network returns.

    Attributes:
      logits: [B, C] float32.
      embedding: [B, D] float32, the pooled features that the classifier sees.
      maps: stage outputs [B, H, W, channels], stem first.
      preactivations: the same taps before their last ReLU, where they have one. The compiler
        drops what no objective reads.
      head: {"kernel": [D, C], "bias": [C]}, with logits = embedding @ kernel + bias.
    """

    logits: jax.Array
    embedding: jax.Array
    maps: tuple[jax.Array, ...] = ()
    preactivations: tuple[jax.Array, ...] = ()
    head: Any = ()


kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# PyTorch's default for convolutions and linear layers: uniform in +-1/sqrt(fan_in).
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Block(nn.Module):
    """What `networks.remat` can compute twice; of one input, and beside it keywords."""


class Conv(nn.Module):
    """Convolution with PyTorch's symmetric padding of (kernel - 1) / 2.

    Attributes:
      features: channels of the result.
      kernel: its height and width, odd.
      stride: of both axes.
      dtype: what it computes in; parameters are float32.
      groups: of channels.
      use_bias: whether there is one.
      kernel_init: of the kernel [kernel, kernel, channels / groups, features].
      space_to_depth: compute a 7x7 kernel of stride 2 as a 4x4 one of stride 1.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    dtype: jnp.dtype = jnp.float32
    groups: int = 1
    use_bias: bool = False
    kernel_init: Callable = kaiming_fan_out
    space_to_depth: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, channels] to [B, H / stride, W / stride, features]."""
        shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        conv = partial(_conv, stride=self.stride)
        if self.space_to_depth:
            conv = _deep
        elif self.groups > 1:
            # On a CPU XLA computes grouped convolutions, and more so their gradients, naively.
            quick = _depthwise if self.groups == x.shape[-1] == self.features else _split
            quick = partial(quick, stride=self.stride)
            conv = partial(jax.lax.platform_dependent, cpu=quick, default=conv)
        y = _each_alone(conv)(x, kernel)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = functional.add_bias(y, bias)
        return checkpoint_name(y, "convolution")


def _conv(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    pad = (kernel.shape[0] - 1) // 2
    return functional.convolve(x, kernel, stride=stride, padding=(pad, pad))


def _each_alone(conv: Callable) -> Callable:
    """Under vmap, as for several students, one convolution each: XLA would make a grouped one."""

    def gradients(x, kernel, cotangent):
        return jax.vjp(conv, x, kernel)[1](cotangent)

    forward, backward = _unrolled(conv), _unrolled(gradients)
    found = jax.custom_vjp(forward)
    found.defvjp(lambda *inputs: (forward(*inputs), inputs), lambda kept, g: backward(*kept, g))
    return found


def _unrolled(function: Callable) -> Callable:
    """vmap calls the function again and again, unless all that is batched are its images."""
    found = jax.custom_batching.custom_vmap(function)

    @found.def_vmap
    def over(size, batched, x, *others):
        if not any(batched[1:]):
            y = function(x.reshape(-1, *x.shape[2:]), *others)
            return y.reshape(size, -1, *y.shape[1:]), True
        inputs = (x, *others)
        each = [
            function(*(one[i] if b else one for one, b in zip(inputs, batched, strict=True)))
            for i in range(size)
        ]
        return jax.tree.map(lambda *parts: jnp.stack(parts), *each), jax.tree.map(
            lambda part: True, each[0]
        )

    return found


def _deep(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 7x7 kernel's convolution of stride 2: squares of 2x2 pixels become four times the channels.

    Matrix units that take many channels at once are idle less than with the three of an image.
    """
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))  # of odd images
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
    # Around pixel 2i lie the rows 2i - 3 to 2i + 3; with a zero before them, pairs i - 2 to i + 1.
    kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(4, 2, 4, 2, channels, -1).swapaxes(1, 2)
    return jax.lax.conv_general_dilated(
        x.reshape(*x.shape[:3], 4 * channels),
        kernel.reshape(4, 4, 4 * channels, -1),
        window_strides=(1, 1),
        padding=((2, 1), (2, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _depthwise(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """A sum of shifted images, each times its place in the kernel."""
    size = kernel.shape[0]
    pad = (size - 1) // 2
    padded = jnp.pad(x.astype(jnp.float32), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = ((n + 2 * pad - size) // stride + 1 for n in x.shape[1:3])
    y = jnp.zeros((), jnp.float32)
    for row in range(size):
        for column in range(size):
            rows = slice(row, row + stride * (height - 1) + 1, stride)
            columns = slice(column, column + stride * (width - 1) + 1, stride)
            y += padded[:, rows, columns] * kernel[row, column, 0].astype(jnp.float32)
    return y.astype(x.dtype)


def _split(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """A convolution for each group."""
    groups = x.shape[-1] // kernel.shape[2]
    parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
    return jnp.concatenate([_conv(*part, stride=stride) for part in parts], axis=-1)


class BatchNorm(nn.Module):
    """Batch norm with PyTorch's running variance: the unbiased one, where Flax keeps the biased.

    Statistics are float32 and span the whole (global) batch; the result has the input's dtype.

    Attributes:
      momentum: share of the running figures that a batch leaves.
      epsilon: added to the variance.
      follows: the convolution beside it whose result it takes, and nothing else does; "" for none.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    follows: str = ""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[..., channels] to the same, normalised by the batch (train) or the running figures."""
        features = x.shape[-1]
        bias = self.param("bias", nn.initializers.zeros, (features,))
        if not (train or self.is_initializing() or self.has_variable("params", "scale")):
            return (x + bias).astype(x.dtype)  # fold.fold left only this of it
        scale = self.param("scale", nn.initializers.ones, (features,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,))
        if train:
            # One pass for both, and one less in the gradient: these reductions are most of a small
            # step. The running mean is near the batch's.
            mean, var = functional.moments(x, running_mean.value)
            mean, var = checkpoint_name((mean, var), "statistics")
            if not self.is_initializing():
                count = math.prod(x.shape[:-1])
                unbiased = var * (count / max(count - 1, 1))
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        # One fused scale and shift, computed in float32.
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return functional.affine(x, factor, bias - mean * factor)


def conv_norm(
    x: jax.Array, names: tuple[str, str], *shape: Any, train: bool, **options: Any
) -> jax.Array:
    """Conv(*shape, **options) and its BatchNorm, within the module that calls it.

    Args:
      x: [B, H, W, channels].
      names: of the convolution and the batch norm.
      *shape: what Conv takes first: features, kernel, stride, dtype, groups.
      train: as BatchNorm's.
      **options: what else Conv takes.
    """
    x = Conv(*shape, name=names[0], **options)(x)
    return BatchNorm(name=names[1], follows=names[0])(x, train=train)


class Classifier(nn.Module):
    """Linear layer in float32, started as PyTorch's Linear unless told otherwise."""

    features: int
    kernel_init: Callable = torch_default
    zero_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, D] to [B, features]."""
        bound = 0.0 if self.zero_bias else 1 / math.sqrt(x.shape[-1])

        def bias_init(key, shape):
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", bias_init, (self.features,))
        return functional.linear(x, kernel, bias)


def classified(
    classifier: Classifier,
    embedding: jax.Array,
    maps: Sequence[jax.Array],
    preactivations: Sequence[jax.Array],
) -> Outputs:
    """The Outputs of a network that ends in `classifier`, on `embedding` [B, D]."""
    logits = classifier(embedding)
    head = dict(classifier.variables["params"])
    return Outputs(logits, embedding, tuple(maps), tuple(preactivations), head)


def global_average(x: jax.Array) -> jax.Array:
    """[B, H, W, C] to [B, C] in float32.

    Raises:
      InputError: nothing is left of the images, because they were too small.
    """
    if 0 in x.shape[1:3]:
        raise errors.InputError(
            f"the images are too small for this network: {x.shape[1]}x{x.shape[2]} is left of them"
            " before the last pooling; a larger data.image_size helps"
        )
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))
