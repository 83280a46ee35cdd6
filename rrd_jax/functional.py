"""Layers as functions of arrays, which compute as PyTorch's do; networks and objectives share them.

Sums over a batch of maps are taken in two stages, over places and then over images: in one, XLA's
own reductions on a CPU are off by 7e-6 for 65 536 values, in two by 2e-7.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: Sequence[int],
    transposed: bool = False,
    precision: str | None = None,
) -> jax.Array:
    """Convolution of [B, H, W, channels], of the type that both have.

    Args:
      x: maps.
      kernel: [height, width, channels / groups, features].
      stride: of both axes; of a transposed one, how much larger the map becomes.
      padding: zeros on each side of an axis, as PyTorch counts them.
      transposed: whether it is PyTorch's ConvTranspose2d.
      precision: "highest" for full float32 on every device.
    """
    strides, dilation, pads = (stride, stride), (1, 1), padding
    if transposed:
        kernel, strides, dilation = kernel[::-1, ::-1], (1, 1), strides
        pads = [size - 1 - pad for size, pad in zip(kernel.shape[:2], padding, strict=True)]
    # No preferred_element_type: the backward pass must stay in the compute dtype too.
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=[(pad, pad) for pad in pads],
        lhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
        precision=precision,
    )


def sums(*values: jax.Array) -> tuple[jax.Array, ...]:
    """The sum [channels] in float32 of each [..., channels], all in one pass over what they share.

    Args:
      *values: of one number of axes.
    """
    values = tuple(value.astype(jnp.float32) for value in values)
    places = tuple(range(1, values[0].ndim - 1))
    if places:
        values = tuple(jnp.sum(value, places) for value in values)
        values = jax.lax.optimization_barrier(values)  # XLA joins consecutive sums
    return tuple(jnp.sum(value, 0) for value in values)


def moments(x: jax.Array, centre: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance [channels] of [..., channels], in one pass and in float32.

    Args:
      x: of any float type.
      centre: [channels], near the mean: the mean of squares is taken around it, since around a
        centre far from the mean it cancels. Constant for gradients.
    """
    centre = jax.lax.stop_gradient(centre)
    centred = x.astype(jnp.float32) - centre
    count = x.size // x.shape[-1]
    first, second = (total / count for total in sums(centred, jnp.square(centred)))
    return centre + first, jnp.maximum(second - jnp.square(first), 0)


@jax.custom_vjp
def affine(x: jax.Array, factor: jax.Array, shift: jax.Array) -> jax.Array:
    """x * factor + shift in float32, as x's type.

    Args:
      x: [..., channels].
      factor: [channels] float32.
      shift: [channels] float32.
    """
    return (x * factor + shift).astype(x.dtype)


def _affine_forward(x, factor, shift):
    return affine(x, factor, shift), (x, factor)


def _affine_backward(kept, gradient):
    x, factor = kept
    gradient = gradient.astype(jnp.float32)
    return (gradient * factor).astype(x.dtype), *sums(gradient * x, gradient)


affine.defvjp(_affine_forward, _affine_backward)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x [..., channels] + bias [channels] in float32, as x's type."""
    return (x.astype(jnp.float32) + bias).astype(x.dtype)


def _bias_forward(x, bias):
    return add_bias(x, bias), None


def _bias_backward(kept, gradient):
    del kept
    return gradient, *sums(gradient)


add_bias.defvjp(_bias_forward, _bias_backward)


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """x @ kernel + bias in full float32: [B, features] to [B, D].

    Accelerators multiply with about ten mantissa bits unless told otherwise.
    """
    x = x.astype(jnp.float32)
    return jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST) + bias
