"""Layers as functions of arrays; networks and objectives share them. They compute as PyTorch's do.

Sums over a batch of maps are taken in two stages, over places and then over images. In one stage,
XLA's reductions on a CPU are off by 7e-6 for 65 536 values; in two, by 2e-7.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rrd_jax.cpu import convolutions


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: Sequence[int],
    transposed: bool = False,
    precision: str | None = None,
) -> jax.Array:
    """Convolution of maps [B, H, W, channels] with a kernel of the same type.

    Args:
      x: maps.
      kernel: [height, width, channels / groups, features].
      stride: of both axes; if transposed, by how much the map grows.
      padding: zeros on each side of the height and of the width, as PyTorch counts them.
      transposed: whether to compute PyTorch's ConvTranspose2d.
      precision: "highest" for full float32 on every device.

    Returns:
      [B, height, width, features], of the same type.
    """
    if not transposed:
        return convolutions.convolve(x, kernel, stride=stride, padding=padding, precision=precision)
    kernel = kernel[::-1, ::-1]
    pads = [size - 1 - pad for size, pad in zip(kernel.shape[:2], padding, strict=True)]
    # No preferred_element_type: the backward pass must stay in the compute dtype too.
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=[(pad, pad) for pad in pads],
        lhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
        precision=precision,
    )


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with a gradient of 0 at 0."""
    return jnp.maximum(wide(x), 0).astype(x.dtype)


@relu.defjvp
def _relu_forward(primals, tangents):
    (x,), (tangent,) = primals, tangents
    return relu(x), jnp.where(wide(x) > 0, wide(tangent), 0).astype(tangent.dtype)


def wide(x: jax.Array) -> jax.Array:
    """x as float32 or wider: bfloat16 has no vectors on a CPU, but a branch for each value."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def per_channel(values: jax.Array, x: jax.Array) -> jax.Array:
    """[channels] as [1, ..., 1, channels], to compute with x [..., channels].

    Shapes are never widened silently here: the tests let JAX refuse it.
    """
    return jax.lax.expand_dims(values, range(x.ndim - 1))


def sums(*values: jax.Array) -> tuple[jax.Array, ...]:
    """The float32 sum [channels] of each array [..., channels], in one pass over all of them.

    Args:
      *values: arrays of equal shape.
    """
    values = tuple(value.astype(jnp.float32) for value in values)
    places = tuple(range(1, values[0].ndim - 1))
    if places:
        values = tuple(jnp.sum(value, places) for value in values)
        values = jax.lax.optimization_barrier(values)  # or XLA joins the two sums
    return tuple(jnp.sum(value, 0) for value in values)


def moments(x: jax.Array, centre: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance [channels] of [..., channels], in one pass and in float32.

    Args:
      x: of any float type.
      centre: [channels], near the mean: the mean of squares is taken around it, since around a
        centre far from the mean it cancels. Constant for gradients.
    """
    centre = jax.lax.stop_gradient(centre)
    centred = x.astype(jnp.float32) - per_channel(centre, x)
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
    return (x * per_channel(factor, x) + per_channel(shift, x)).astype(x.dtype)


def _affine_forward(x, factor, shift):
    return affine(x, factor, shift), (x, factor)


def _affine_backward(kept, gradient):
    x, factor = kept
    gradient = gradient.astype(jnp.float32)
    by_x = gradient * per_channel(factor, x)
    return by_x.astype(x.dtype), *sums(gradient * x, gradient)


affine.defvjp(_affine_forward, _affine_backward)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x [..., channels] + bias [channels] in float32, as x's type."""
    return (x.astype(jnp.float32) + per_channel(bias, x)).astype(x.dtype)


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
    product = jnp.matmul(x.astype(jnp.float32), kernel, precision=jax.lax.Precision.HIGHEST)
    return product + per_channel(bias, product)
