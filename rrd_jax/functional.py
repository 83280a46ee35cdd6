"""Layers as functions of arrays, shared by networks and objectives, with PyTorch's numerics.

Sums over a batch of maps are computed in two stages, over positions and then over images. In one
stage, XLA's reductions on a CPU have an error of 7e-6 for 65 536 values; in two stages, of 2e-7.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rrd_jax.cpu import convolutions

# Values are far from 0 if their mean is this multiple of their range.
_FAR = 20.0


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: Sequence[int],
    transposed: bool = False,
    precision: str | None = None,
) -> jax.Array:
    """Computes a convolution of maps with a kernel of the same type.

    Args:
      x: maps [B, H, W, channels].
      kernel: [height, width, channels / groups, features].
      stride: stride of both axes; if transposed, the factor by which the map grows.
      padding: number of zeros on each side of the height and of the width, as in PyTorch.
      transposed: whether to compute PyTorch's ConvTranspose2d.
      precision: "highest" for full float32 on every device.

    Returns:
      [B, height, width, features], of the same type.
    """
    if not transposed:
        return convolutions.convolve(x, kernel, stride=stride, padding=padding, precision=precision)
    kernel = kernel[::-1, ::-1]
    pads = [size - 1 - pad for size, pad in zip(kernel.shape[:2], padding, strict=True)]
    # Without preferred_element_type, the backward pass stays in the compute dtype, too.
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
    """Computes max(x, 0), with a gradient of 0 at 0."""
    return jnp.maximum(wide(x), 0).astype(x.dtype)


@relu.defjvp
def _relu_forward(primals, tangents):
    (x,), (tangent,) = primals, tangents
    return relu(x), jnp.where(wide(x) > 0, wide(tangent), 0).astype(tangent.dtype)


def resize(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Interpolates maps bilinearly, with half-pixel centers and without antialiasing.

    Args:
      maps: [B, h, w, channels].
      size: H and W.

    Returns:
      [B, H, W, channels]; the maps themselves if they have this size.
    """
    if maps.shape[1:3] == tuple(size):
        return maps
    shape = (len(maps), *size, maps.shape[-1])
    return jax.image.resize(maps, shape, "bilinear", antialias=False)


def wide(x: jax.Array) -> jax.Array:
    """Converts x to float32 or wider; on a CPU, XLA does not vectorize operations on bfloat16."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def unit(x: jax.Array, axis: int = -1) -> jax.Array:
    """Divides vectors along an axis by their length, in float32 or wider.

    The smallest length is that of PyTorch, 1e-12.
    """
    x = wide(x)
    squares = jnp.sum(x * x, axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def per_channel(values: jax.Array, x: jax.Array) -> jax.Array:
    """Reshapes [channels] to [1, ..., 1, channels], for operations with x [..., channels].

    The ranks of operands must be equal, since the tests disable implicit rank promotion.
    """
    return jax.lax.expand_dims(values, range(x.ndim - 1))


def sums(*values: jax.Array) -> tuple[jax.Array, ...]:
    """Computes the float32 sum [channels] of each array in one pass over all arrays.

    Args:
      *values: arrays [..., channels] of equal shape.
    """
    values = tuple(value.astype(jnp.float32) for value in values)
    positions = tuple(range(1, values[0].ndim - 1))
    if positions:
        values = tuple(jnp.sum(value, positions) for value in values)
        # The barrier keeps XLA from merging the two stages.
        values = jax.lax.optimization_barrier(values)
    return tuple(jnp.sum(value, 0) for value in values)


def moments(x: jax.Array, center: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes mean and biased variance [channels] in one pass and in float32.

    Args:
      x: [..., channels] of any float type.
      center: [channels], values near the mean. The mean of squares is computed around them, since
        values far from the mean cause cancellation. Constant for gradients.
    """
    center = jax.lax.stop_gradient(center)
    centered = x.astype(jnp.float32) - per_channel(center, x)
    count = x.size // x.shape[-1]
    first, second = (total / count for total in sums(centered, jnp.square(centered)))
    return center + first, jnp.maximum(second - jnp.square(first), 0)


def center(x: jax.Array, running_mean: jax.Array) -> jax.Array:
    """Returns values near the mean of x, [channels], for `moments`: usually the running mean.

    Channels whose running mean is still 0 and whose values are far from 0, compared with their
    spread, use values of x itself. In `moments`, 0 would cancel most digits of their variance.

    Args:
      x: [B, ..., channels] of any float type.
      running_mean: [channels]; 0 before the first update.
    """
    # One position of each image suffices, and does not slow the step.
    sample = x[(slice(None), *(size // 2 for size in x.shape[1:-1]))]
    sample = jax.lax.stop_gradient(sample).astype(jnp.float32)
    # One reduction for both ends is one collective when devices share the batch.
    ends = jnp.max(jnp.concatenate([sample, -sample], axis=-1), 0)
    highest, lowest = jnp.split(ends * jnp.repeat(jnp.array([1.0, -1.0]), x.shape[-1]), 2)
    middle = (highest + lowest) / 2
    is_far = (running_mean == 0) & (jnp.abs(middle) > _FAR * (highest - lowest))
    return jnp.where(is_far, middle, running_mean)


@jax.custom_vjp
def affine(x: jax.Array, factor: jax.Array, shift: jax.Array) -> jax.Array:
    """Computes x * factor + shift in float32, and returns x's type.

    Args:
      x: [..., channels].
      factor: [channels] float32.
      shift: [channels] float32.
    """
    return (x * per_channel(factor, x) + per_channel(shift, x)).astype(x.dtype)


def _affine_forward(x, factor, shift):
    return affine(x, factor, shift), (x, factor)


def _affine_backward(residuals, gradient):
    x, factor = residuals
    gradient = gradient.astype(jnp.float32)
    by_x = gradient * per_channel(factor, x)
    return by_x.astype(x.dtype), *sums(gradient * x, gradient)


affine.defvjp(_affine_forward, _affine_backward)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Computes x [..., channels] + bias [channels] in float32, and returns x's type."""
    return (x.astype(jnp.float32) + per_channel(bias, x)).astype(x.dtype)


def _bias_forward(x, bias):
    return add_bias(x, bias), None


def _bias_backward(residuals, gradient):
    del residuals
    return gradient, *sums(gradient)


add_bias.defvjp(_bias_forward, _bias_backward)


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Computes x @ kernel + bias in full float32, from [B, features] to [B, D].

    By default, accelerators multiply with about ten mantissa bits.
    """
    product = jnp.matmul(x.astype(jnp.float32), kernel, precision=jax.lax.Precision.HIGHEST)
    return product + per_channel(bias, product)
