"""Image operators, selected by number.

If each image of a batch has another operator, as in RandAugment, applying all operators to each
image would be expensive. Instead, each image passes through three steps, of which only one changes
it: an affine map, a lookup table, and a blend with its grayscale or smoothed version.

Images are [H, W, channels] uint8 with one or three channels; `jax.vmap` maps over batches, with an
operator and an amount for each image. The reference is torchvision's `transforms.v2.functional` on
uint8 tensors: values differ by at most 1. In geometric operators, the few pixels exactly between
two source pixels may come from the other source pixel.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.data.augment import tones, warping
from rrd_jax.data.augment.tones import Number

_MATRICES = {
    "shear_x": warping.shear_x,
    "shear_y": warping.shear_y,
    "translate_x": warping.translate_x,
    "translate_y": warping.translate_y,
    "rotate": warping.rotate,
}
_TABLES = {
    "brightness": tones.brightness,
    "contrast": tones.contrast,
    "posterize": tones.posterize,
    "solarize": tones.solarize,
    "solarize_add": tones.solarize_add,
    "autocontrast": tones.autocontrast,
    "equalize": tones.equalize,
    "invert": tones.invert,
}
_BLENDS = {"color": tones.grey, "sharpness": tones.smoothed}
OPERATORS = ("identity", *_MATRICES, *_TABLES, *_BLENDS)


def number(name: str) -> int:
    """Returns the number of an operator, its position in OPERATORS.

    Raises:
      InputError: the name is unknown.
    """
    return errors.lookup("operator", name, {name: i for i, name in enumerate(OPERATORS)})


def apply(
    image: jax.Array,
    operator: jax.Array | int | str,
    amount: Number = 0.0,
    fill: jax.Array | float = 0,
    *,
    bilinear: bool = False,
) -> jax.Array:
    """Applies an operator to an image.

    Args:
      image: [H, W, channels] uint8.
      operator: a name in OPERATORS, or its number, [] int32, which may be traced.
      amount: [] float32: for shear_x and shear_y pixels per pixel; for translate_x and translate_y
        pixels; for rotate degrees counter-clockwise; for brightness, contrast, color and sharpness
        a factor >= 0, where 1 changes nothing; for posterize bits, 0 to 8; for solarize the
        threshold; for solarize_add the added value. The other operators ignore the amount.
      fill: value of pixels from outside the image, in [0, 255]; one number, or [channels].
      bilinear: whether geometric operators interpolate bilinearly instead of choosing the nearest
        pixel.

    Returns:
      The changed image, with the shape and dtype of `image`.

    Raises:
      InputError: the operator's name is unknown.
    """
    if isinstance(operator, str):
        return _apply_known(image, operator, amount, fill, bilinear)
    matrices = [warping.identity(), *(f(amount, *image.shape[:2]) for f in _MATRICES.values())]
    matrix = jnp.stack(matrices)[_positions(_MATRICES)[operator]]
    image = warping.warp(image, matrix, fill, bilinear=bilinear)

    shape, stats = (image.shape[-1], 256), tones.statistics(image)
    candidates = (tones.identity(), *(f(stats, amount) for f in _TABLES.values()))
    tables = jnp.stack([jnp.broadcast_to(table, shape) for table in candidates])
    # A blend reads each pixel several times.
    image = jax.lax.optimization_barrier(
        tones.look_up(image, tables[_positions(_TABLES)[operator]])
    )
    others = jnp.stack([jnp.broadcast_to(f(image), image.shape) for f in _BLENDS.values()])
    which = _positions(_BLENDS)[operator]
    other = others[jnp.maximum(which - 1, 0)]
    return tones.blended(image, other, jnp.where(which > 0, amount, 1.0))


def _apply_known(image, name, amount, fill, bilinear):
    """Applies an operator that is known at compile time, without the steps of other operators."""
    number(name)
    amount = jnp.asarray(amount, jnp.float32)
    if name in _MATRICES:
        matrix = _MATRICES[name](amount, *image.shape[:2])
        return warping.warp(image, matrix, fill, bilinear=bilinear)
    if name in _TABLES:
        return tones.look_up(image, _TABLES[name](tones.statistics(image), amount))
    return tones.blended(image, _BLENDS[name](image), amount) if name in _BLENDS else image


def _positions(names: Iterable[str]) -> jax.Array:
    """Returns the position of each operator in `names`, counted from 1; 0 if it is missing."""
    names = list(names)
    return jnp.asarray([names.index(name) + 1 if name in names else 0 for name in OPERATORS])
