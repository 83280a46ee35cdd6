"""Random crops in the compiled step, identified by numbers."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax.cpu import convolutions
from rrd_jax.data.mask_index import IGNORED

_TRIES = 10
_ASPECTS = (3 / 4, 4 / 3)


class Crop(NamedTuple):
    """A family of crops, identified by numbers.

    Attributes:
      views: number of crops of an image; 0 if there are too many to count.
      choose: key -> number [] int32 in [0, views), or any number >= 0 if `views` is 0.
      cut: (numbers [B], images [B, H, W, channels] uint8) -> uint8 images of the same shape.
      cut_masks: the same for masks [B, H, W] uint8: the nearest class index at each position of the
        crop, and 255 for pixels outside the image.
    """

    views: int
    choose: Callable[[jax.Array], jax.Array]
    cut: Callable[[jax.Array, jax.Array], jax.Array]
    cut_masks: Callable[[jax.Array, jax.Array], jax.Array]


def crop_flip(pad: int, flip: bool) -> Crop:
    """Returns crops of the image's size from the image with black padding.

    The number of a crop is (top * offsets + left) * sides + side, where (top, left) is the corner
    of the crop and side is 1 for a flipped crop.

    Args:
      pad: black pixels on each side.
      flip: whether half of the crops are flipped horizontally.
    """
    sides, offsets = 1 + flip, 2 * pad + 1

    def choose(key):
        crop_key, flip_key = jax.random.split(key)
        top, left = jax.random.randint(crop_key, (2,), 0, offsets)
        side = jax.random.bernoulli(flip_key) if flip else 0
        return (top * offsets + left) * sides + side

    def cut_one(top, left, side, padded):
        height, width, channels = padded.shape
        size = height - 2 * pad, width - 2 * pad, channels
        image = jax.lax.dynamic_slice(padded, (top, left, 0), size)
        return jnp.where(side, image[:, ::-1], image) if flip else image

    def cut(view, images, fill=0):
        corner, side = jnp.divmod(view, sides)
        padding = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        padded = jnp.pad(images, padding, constant_values=fill)
        # After fusion, a CPU would compute the corner again for each pixel.
        arguments = convolutions.unfused((*jnp.divmod(corner, offsets), side, padded))
        return jax.vmap(cut_one)(*arguments)

    def cut_masks(view, masks):
        return cut(view, masks[..., None], fill=IGNORED)[..., 0]

    return Crop(offsets**2 * sides, choose, cut, cut_masks)


def resized_crop(area: float, flip: bool) -> Crop:
    """Returns crops of a random part of the image, resized to the image's size.

    An area and an aspect ratio from 3/4 to 4/3, uniform in its logarithm, are drawn up to ten times
    until the part fits into the image. If no part fits, the crop is the largest central part with
    an allowed aspect ratio. The reference of the pixels is torchvision's `resized_crop`, bilinear
    and antialiased, on uint8 tensors.

    Args:
      area: minimum relative area of the part, in (0, 1]; the area is uniform up to 1.
      flip: whether half of the crops are flipped horizontally.
    """

    def choose(key):
        return (jax.random.bits(key) >> 1).astype(jnp.int32)

    def cut_one(number, image, resize):
        numbers = jax.random.uniform(jax.random.key(number), (_TRIES + 1, 4))
        box = random_box(numbers[:_TRIES], image.shape[:2], area)
        scaled = resize(image, *jax.lax.optimization_barrier(box))
        mirrored = flip & (numbers[_TRIES, 0] < 0.5)
        return jnp.where(mirrored, scaled[:, ::-1], scaled)

    def cut(number, images, resize=resized):
        return jax.vmap(lambda i, image: cut_one(i, image, resize))(number, images)

    def cut_masks(number, masks):
        return cut(number, masks[..., None], nearest)[..., 0]

    return Crop(0, choose, cut, cut_masks)


def random_box(
    numbers: jax.Array, size: tuple[int, int], area: float
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns (top, left, height, width) [] int32 of a random part of an image, in pixels.

    Args:
      numbers: [tries, 4] uniform in [0, 1), for area, aspect ratio and position of each try.
      size: height and width of the image.
      area: minimum relative area of the part.
    """
    height, width = size
    low, high = (math.log(aspect) for aspect in _ASPECTS)
    areas = height * width * (area + (1 - area) * numbers[:, 0])
    aspects = jnp.exp(low + (high - low) * numbers[:, 1])
    w = jnp.round(jnp.sqrt(areas * aspects)).astype(jnp.int32)
    h = jnp.round(jnp.sqrt(areas / aspects)).astype(jnp.int32)
    fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
    first = jnp.argmax(fits)
    tall = min(height, round(width / _ASPECTS[0]))
    wide = min(width, round(height * _ASPECTS[1]))
    h, w = jnp.where(fits.any(), h[first], tall), jnp.where(fits.any(), w[first], wide)
    position = numbers[first, 2:]
    top = jnp.floor(position[0] * (height - h + 1)).astype(jnp.int32)
    left = jnp.floor(position[1] * (width - w + 1)).astype(jnp.int32)
    top = jnp.where(fits.any(), jnp.minimum(top, height - h), (height - h) // 2)
    left = jnp.where(fits.any(), jnp.minimum(left, width - w), (width - w) // 2)
    return top, left, h, w


def resized(
    image: jax.Array, top: jax.Array, left: jax.Array, height: jax.Array, width: jax.Array
) -> jax.Array:
    """Resizes a part of an image to the size of the image: bilinear and antialiased.

    Args:
      image: [H, W, channels] uint8.
      top: first row of the part, which must be inside the image.
      left: first column of the part.
      height: height of the part, >= 1.
      width: width of the part, >= 1.
    """
    rows = _weights(image.shape[0], top, height)
    columns = _weights(image.shape[1], left, width)
    scaled = jnp.einsum(
        "oh,hwc->owc", rows, image.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
    scaled = jnp.einsum("ow,hwc->hoc", columns, scaled, precision=jax.lax.Precision.HIGHEST)
    return jnp.clip(jnp.round(scaled), 0, 255).astype(jnp.uint8)


def nearest(
    mask: jax.Array, top: jax.Array, left: jax.Array, height: jax.Array, width: jax.Array
) -> jax.Array:
    """Resizes a part of a mask to the size of the mask by nearest neighbor; see `resized`."""
    rows = _nearest_pixels(mask.shape[0], top, height)
    columns = _nearest_pixels(mask.shape[1], left, width)
    return mask[rows][:, columns]


def _nearest_pixels(size: int, first: jax.Array, length: jax.Array) -> jax.Array:
    """Returns the index of the input pixel that contains the center of each output pixel."""
    # Integers, because a rounded center could be in the next pixel.
    return first + ((2 * jnp.arange(size) + 1) * length) // (2 * size)


def _weights(size: int, first: jax.Array, length: jax.Array) -> jax.Array:
    """Returns the interpolation weights [output pixels, input pixels] along one axis."""
    scale = length / size
    reach = jnp.maximum(scale, 1.0)
    centers = first + (jnp.arange(size)[:, None] + 0.5) * scale
    pixels = jnp.arange(size)[None]
    distance = jnp.abs(pixels + 0.5 - centers) / reach
    inside = (pixels >= first) & (pixels < first + length)
    weights = jnp.where(inside, jnp.maximum(1 - distance, 0), 0)
    return weights / weights.sum(1, keepdims=True)
