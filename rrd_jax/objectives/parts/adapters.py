"""Adapters: small networks from a student's features to a teacher's.

An adapter is a tuple of Layers; its parameters are a plain dict. Layers compute in float32 and use
PyTorch's initialization.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.objectives.parts.maps import Shape

# Defaults of PyTorch's batch norm.
_MOMENTUM, _EPSILON = 0.1, 1e-5


class Layer(NamedTuple):
    """A convolution with optional batch norm and activation.

    Attributes:
      features: number of output channels.
      kernel: height and width of the kernel.
      stride: stride of the convolution; for a transposed convolution, the factor by which height
        and width grow.
      padding: zeros on each side, as PyTorch counts them.
      transposed: whether the convolution is PyTorch's ConvTranspose2d.
      bias: whether the convolution has a bias.
      norm: whether batch norm follows.
      slope: slope of the activation below zero: 0 for ReLU, 1 for no activation.
      depthwise: whether each channel has its own kernel; `features` is then the number of input
        channels.
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: int = 0
    transposed: bool = False
    bias: bool = False
    norm: bool = True
    slope: float = 0.0
    depthwise: bool = False


def init(
    key: jax.Array, stack: Sequence[Layer], channels: int, *, gain: float = 1.0
) -> dict[str, Any]:
    """Initializes the parameters of an adapter for maps with the number of input channels.

    Kernels and biases are uniform in +-gain / sqrt(fan-in); a gain of 1 is PyTorch's default.
    """
    stack_params = {}
    for i, layer in enumerate(stack):
        key, kernel_key, bias_key = jax.random.split(key, 3)
        # PyTorch computes the fan-in of a transposed convolution from its output channels.
        inputs = 1 if layer.depthwise else channels
        fan_in = math.prod(layer.kernel) * (layer.features if layer.transposed else inputs)
        bound = gain / math.sqrt(fan_in)
        shape = (*layer.kernel, inputs, layer.features)
        params = {"kernel": jax.random.uniform(kernel_key, shape, minval=-bound, maxval=bound)}
        if layer.bias:
            shape = (layer.features,)
            params["bias"] = jax.random.uniform(bias_key, shape, minval=-bound, maxval=bound)
        if layer.norm:
            params |= {"scale": jnp.ones(layer.features), "shift": jnp.zeros(layer.features)}
        stack_params[f"layer{i}"] = params
        channels = layer.features
    return stack_params


def init_per_tap(
    key: jax.Array, stacks: Sequence[Sequence[Layer]], channels: Sequence[int]
) -> dict[str, Any]:
    """Initializes {"tap0", "tap1", ...}, an adapter for each tap with its number of channels."""
    return {
        f"tap{i}": init(jax.random.fold_in(key, i), stack, count)
        for i, (stack, count) in enumerate(zip(stacks, channels, strict=True))
    }


def init_running(stack: Sequence[Layer]) -> dict[str, Any]:
    """Initializes the running statistics of an adapter's batch norms."""
    return {
        f"layer{i}": {"mean": jnp.zeros(layer.features), "var": jnp.ones(layer.features)}
        for i, layer in enumerate(stack)
        if layer.norm
    }


def apply(stack: Sequence[Layer], params: dict[str, Any], x: jax.Array) -> jax.Array:
    """Adapts maps [B, H, W, channels] to [B, H', W', channels'], with the batch's statistics."""
    return update(stack, params, init_running(stack), x)[0]


def update(
    stack: Sequence[Layer], params: dict[str, Any], running: dict[str, Any], x: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    """Returns the result of `apply`, and the updated running statistics, constant for gradients."""
    moved = {}
    for i, layer in enumerate(stack):
        name = f"layer{i}"
        x = _convolve(layer, params[name], x)
        if layer.norm:
            # Two passes: the variance is computed around the mean, which is unknown before.
            mean, _ = functional.moments(x, jnp.zeros(layer.features))
            _, var = functional.moments(x, mean)
            count = math.prod(x.shape[:3])
            newest = {"mean": mean, "var": var * (count / max(count - 1, 1))}
            moved[name] = jax.tree.map(
                lambda old, new: (1 - _MOMENTUM) * old + _MOMENTUM * jax.lax.stop_gradient(new),
                running[name],
                newest,
            )
            x = _normalize(params[name], mean, var, x)
        x = _activate(layer, x)
    return x, moved


def apply_rows(stack: Sequence[Layer], params: dict[str, Any], x: jax.Array) -> jax.Array:
    """Applies layers with 1x1 kernels to rows, like `apply`: [B, D] to [B, features]."""
    return apply(stack, params, x[:, None, None])[:, 0, 0]


def infer(
    stack: Sequence[Layer], params: dict[str, Any], running: dict[str, Any], x: jax.Array
) -> jax.Array:
    """Adapts maps with the running statistics, so that examples do not depend on each other."""
    for i, layer in enumerate(stack):
        name = f"layer{i}"
        x = _convolve(layer, params[name], x)
        if layer.norm:
            x = _normalize(params[name], running[name]["mean"], running[name]["var"], x)
        x = _activate(layer, x)
    return x


def _convolve(layer: Layer, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    y = functional.convolve(
        x.astype(jnp.float32),
        params["kernel"],
        stride=layer.stride,
        padding=(layer.padding, layer.padding),
        transposed=layer.transposed,
        # A linear layer on rows is computed in full precision in PyTorch too.
        precision="highest" if x.shape[1:3] == (1, 1) else None,
    )
    return functional.add_bias(y, params["bias"]) if layer.bias else y


def _normalize(
    params: dict[str, jax.Array], mean: jax.Array, var: jax.Array, x: jax.Array
) -> jax.Array:
    factor = params["scale"] * jax.lax.rsqrt(var + _EPSILON)
    return functional.affine(x, factor, params["shift"] - mean * factor)


def _activate(layer: Layer, x: jax.Array) -> jax.Array:
    return x if layer.slope == 1 else jnp.where(x > 0, x, layer.slope * x)


def regressor(student: Shape, teacher: Shape, *, slope: float = 0.0) -> tuple[Layer, ...]:
    """Returns FitNet's regressor, a convolution with batch norm to the teacher's size and channels.

    The kernel depends on the size of the student's map relative to the teacher's:

    - twice the height and width: 3x3 with stride 2
    - half the height and width: transposed 4x4 with stride 2
    - equal: 1x1
    - larger by another factor: a valid convolution
    - smaller by another factor: 3x3 that keeps the size; the caller pools the teacher's map.

    Args:
      student: shape [B, H, W, channels] of the student's map.
      teacher: shape [B, H', W', channels'] of the teacher's map.
      slope: slope of the activation, see Layer.
    """
    (hs, ws), (ht, wt), features = student[1:3], teacher[1:3], teacher[-1]
    if (hs, ws) == (2 * ht, 2 * wt):
        return (Layer(features, (3, 3), 2, 1, bias=True, slope=slope),)
    if (2 * hs, 2 * ws) == (ht, wt):
        return (Layer(features, (4, 4), 2, 1, transposed=True, bias=True, slope=slope),)
    if hs >= ht and ws >= wt:
        return (Layer(features, (1 + hs - ht, 1 + ws - wt), bias=True, slope=slope),)
    return (Layer(features, (3, 3), 1, 1, bias=True, slope=slope),)
