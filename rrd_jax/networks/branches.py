"""Convolutions that are a sum of branches for training, merged into one for evaluation.

`teacher.fold`, which exports use too, merges the branches (arXiv 2101.03697).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.networks import layers
from rrd_jax.networks.layers import Leaves

_EPSILON = 1e-5


class Branches(layers.Joined):
    """The sum of convolutions and of the identity, each with a batch norm.

    The identity is omitted if the shape changes. Squeeze and excitation may follow.

    Attributes:
      width: number of output channels.
      kernels: name and kernel size of each convolution, the largest first.
      stride: stride of the convolutions.
      groups: number of groups: 1, or the number of input channels.
      squeeze: width of the squeeze and excitation; 0 for none.
      squeeze_name: name of the squeeze and excitation.
      default_start: whether parameters start at PyTorch's default values, instead of Kaiming's by
        fan-out for kernels, and 0 for biases.
      dtype: type of the convolutions.
    """

    width: int
    kernels: tuple[tuple[str, int], ...]
    stride: int = 1
    groups: int = 1
    squeeze: int = 0
    squeeze_name: str = "se"
    default_start: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, channels] to [B, H / stride, W / stride, width]."""
        # As in timm, the fan-out counts the output channels of a group only.
        fan_out = nn.initializers.variance_scaling(2.0 * self.groups, "fan_out", "normal")
        terms = [
            layers.ConvNorm(
                self.width,
                kernel,
                self.stride,
                self.groups,
                self.dtype,
                kernel_init=layers.torch_default if self.default_start else fan_out,
                name=name,
            )(x, train=train)
            for i, (name, kernel) in enumerate(self.kernels)
            if i == 0 or self._has(name)
        ]
        if x.shape == terms[0].shape and self._has("identity"):
            terms.append(layers.BatchNorm(name="identity")(x, train=train))
        y = sum(terms[1:], terms[0])
        if self.squeeze:
            options = (functional.relu, nn.sigmoid, ("fc1", "fc2"), self.dtype, self.default_start)
            y = layers.Squeeze(self.squeeze, *options, name=self.squeeze_name)(y)
        return y

    def _has(self, name: str) -> bool:
        """Returns True for a branch that `teacher.fold` has not merged."""
        return self.is_initializing() or self.has_variable("params", name)

    def join(self, params: Leaves, stats: Leaves) -> Leaves:
        """Implements `Joined.join`."""
        first = self.kernels[0][0]
        shape = params[first, "conv", "kernel"].shape
        kernel, bias = 0.0, 0.0
        for name, _ in self.kernels:
            conv = params[name, "conv", "kernel"]
            weights, shift = with_norm(conv, params, stats, (name, "bn"))
            kernel, bias = kernel + padded(weights, shape), bias + shift
        if ("identity", "scale") in params:
            weights, shift = with_norm(identity(shape), params, stats, ("identity",))
            kernel, bias = kernel + weights, bias + shift
        rest = {path: leaf for path, leaf in params.items() if path[0] == self.squeeze_name}
        return {(first, "conv", "kernel"): kernel, (first, "bn", "bias"): bias, **rest}


def with_norm(
    kernel: jax.Array, params: Leaves, stats: Leaves, norm: tuple[str, ...], bias: jax.Array = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Returns the kernel and the bias of a convolution and the batch norm after it.

    Args:
      kernel: kernel [k, k, channels / groups, width] of the convolution.
      params: parameters of the block by path.
      stats: running statistics of the block by path.
      norm: path of the batch norm in the block.
      bias: bias of the convolution.
    """
    factor = params[*norm, "scale"] * jax.lax.rsqrt(stats[*norm, "var"] + _EPSILON)
    shift = params[*norm, "bias"] + (bias - stats[*norm, "mean"]) * factor
    return kernel * functional.per_channel(factor, kernel), shift


def identity(shape: tuple[int, ...]) -> jax.Array:
    """Returns the kernel [k, k, channels, channels] or [k, k, 1, channels] of the identity."""
    _, _, inside, width = shape
    center = jnp.eye(width) if inside == width else jnp.ones((1, width))
    return padded(center[None, None], shape)


def padded(kernel: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns a kernel with zeros around it, of the height and width of `shape`."""
    margin = (shape[0] - kernel.shape[0]) // 2
    return jnp.pad(kernel, ((margin, margin), (margin, margin), (0, 0), (0, 0)))
