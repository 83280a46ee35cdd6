"""Operators on an image, one or another by its number.

Where each image of a batch has an operator of its own, as in RandAugment, a batch must not go
through all of them. Here each goes through three things, one of which changes it: an affine map,
a table of values, a blend with its grey or smoothed self.

Images are [H, W, channels] uint8, of one channel or three; `jax.vmap` maps all of this over
batches, with an operator and an amount for each image. The reference is torchvision's
`transforms.v2.functional` on tensors of uint8: values differ by 1 at most; of the geometric ones
the few pixels that lie half way between two others may come from the other one.
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
    """The number of an operator, its place in OPERATORS.

    Raises:
      InputError: there is no operator of that name.
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
    """The image after an operator.

    Args:
      image: [H, W, channels] uint8.
      operator: a name of OPERATORS, or its number, [] int32, which may be traced.
      amount: [] float32. Of shear_x and shear_y pixels a pixel; of translate_x and translate_y
        pixels; of rotate degrees, counter-clockwise; of brightness, contrast, color and sharpness
        a factor >= 0, where 1 changes nothing; of posterize bits, 0 to 8; of solarize the
        threshold; of solarize_add what is added. The others have none.
      fill: of pixels that come from outside the image, in [0, 255]; one number, or [channels].
      bilinear: whether moved pixels are means of four, and not the nearest one.

    Returns:
      As the image.

    Raises:
      InputError: there is no operator of that name.
    """
    if isinstance(operator, str):
        return _apply_known(image, operator, amount, fill, bilinear)
    matrices = [warping.identity(), *(f(amount, *image.shape[:2]) for f in _MATRICES.values())]
    matrix = jnp.stack(matrices)[_places(_MATRICES)[operator]]
    image = warping.warp(image, matrix, fill, bilinear=bilinear)

    shape, stats = (image.shape[-1], 256), tones.statistics(image)
    candidates = (tones.identity(), *(f(stats, amount) for f in _TABLES.values()))
    tables = jnp.stack([jnp.broadcast_to(table, shape) for table in candidates])
    # A blend reads each pixel several times.
    image = jax.lax.optimization_barrier(tones.look_up(image, tables[_places(_TABLES)[operator]]))
    others = jnp.stack([jnp.broadcast_to(f(image), image.shape) for f in _BLENDS.values()])
    which = _places(_BLENDS)[operator]
    other = others[jnp.maximum(which - 1, 0)]
    return tones.blended(image, other, jnp.where(which > 0, amount, 1.0))


def _apply_known(image, name, amount, fill, bilinear):
    """`apply` with an operator that is known as the program is made: nothing else is computed."""
    number(name)
    amount = jnp.asarray(amount, jnp.float32)
    if name in _MATRICES:
        matrix = _MATRICES[name](amount, *image.shape[:2])
        return warping.warp(image, matrix, fill, bilinear=bilinear)
    if name in _TABLES:
        return tones.look_up(image, _TABLES[name](tones.statistics(image), amount))
    return tones.blended(image, _BLENDS[name](image), amount) if name in _BLENDS else image


def _places(names: Iterable[str]) -> jax.Array:
    """For each number of OPERATORS: which of these names it is, from 1; 0 for none."""
    names = list(names)
    return jnp.asarray([names.index(name) + 1 if name in names else 0 for name in OPERATORS])
