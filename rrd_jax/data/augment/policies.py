"""Policies that draw image operators and their amounts: RandAugment and TrivialAugment.

The operators and amounts depend only on a key, so the result for an image does not depend on the
other images of its batch.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors
from rrd_jax.data.augment import operators

POLICIES = ("none", "rand", "rand_increasing", "rand_uniform", "trivial")
_ROUNDINGS = ("none", "down", "nearest", "up")


class _Range(NamedTuple):
    """The amounts of an operator, from magnitude 0 to the maximum magnitude.

    Attributes:
      operator: a name in OPERATORS.
      first: amount at magnitude 0.
      last: amount at the maximum magnitude.
      signed: whether half of the amounts are negative.
      base: offset that is added to the signed amount.
      rounding: rounding of the amount before the sign is applied, a name in _ROUNDINGS.
      unit: "side" if amounts are fractions of the image's height or width.
    """

    operator: str
    first: float = 0.0
    last: float = 0.0
    signed: bool = False
    base: float = 0.0
    rounding: str = "none"
    unit: str = ""


class _Space(NamedTuple):
    """The search space of a policy.

    Attributes:
      ranges: operators with their amounts; each operator is equally likely.
      largest: maximum magnitude.
      probability: probability that a chosen operator is applied.
      minimum: minimum of factors.
      uniform: whether each magnitude is uniform from 0 to `largest`.
    """

    ranges: tuple[_Range, ...]
    largest: float
    probability: float = 1.0
    minimum: float = 0.0
    uniform: bool = False


def _factors(last: float) -> tuple[_Range, ...]:
    names = ("brightness", "color", "contrast", "sharpness")
    return tuple(_Range(name, last=last, signed=True, base=1.0) for name in names)


def _signed(last: float, *names: str) -> tuple[_Range, ...]:
    return tuple(_Range(name, last=last, signed=True) for name in names)


def _moves(last: float, unit: str, rounding: str) -> tuple[_Range, ...]:
    names = ("translate_x", "translate_y")
    return tuple(_Range(n, last=last, signed=True, rounding=rounding, unit=unit) for n in names)


# torchvision's RandAugment with magnitudes from 0 to 30 and its largest amounts.
_RAND = _Space(
    (
        _Range("identity"),
        *_signed(0.3, "shear_x", "shear_y"),
        *_moves(150 / 331, "side", "down"),
        *_signed(30.0, "rotate"),
        *_factors(0.9),
        _Range("posterize", 8, 4, rounding="nearest"),
        _Range("solarize", 255, 0),
        _Range("autocontrast"),
        _Range("equalize"),
    ),
    largest=30,
)
# timm's `rand-m9-mstd0.5-inc1`, as in DeiT: magnitudes are 0 to 10, and each chosen operator is
# applied with probability 0.5.
_INCREASING = _Space(
    (
        _Range("autocontrast"),
        _Range("equalize"),
        _Range("invert"),
        *_signed(30.0, "rotate"),
        _Range("posterize", 4, 0, rounding="up"),
        _Range("solarize", 256, 0, rounding="up"),
        _Range("solarize_add", 0, 110, rounding="down"),
        *_factors(0.9),
        *_signed(0.3, "shear_x", "shear_y"),
        *_moves(0.45, "side", "none"),
    ),
    largest=10,
    probability=0.5,
    minimum=0.1,
)
# FixMatch's RandAugment, whose factors only reduce the brightness, color, contrast and sharpness.
_UNIFORM = _Space(
    (
        _Range("autocontrast"),
        *(_Range(n, 0.05, 0.95) for n in ("brightness", "color", "contrast", "sharpness")),
        _Range("equalize"),
        _Range("identity"),
        _Range("posterize", 4, 8, rounding="down"),
        *_signed(30.0, "rotate"),
        *_signed(0.3, "shear_x", "shear_y"),
        _Range("solarize", 0, 256),
        *_moves(0.3, "side", "none"),
    ),
    largest=1,
    uniform=True,
)
# The wide space of TrivialAugment, as in the paper and torchvision.
_TRIVIAL = _Space(
    (
        _Range("identity"),
        *_signed(0.99, "shear_x", "shear_y"),
        *_moves(32.0, "", "down"),
        *_signed(135.0, "rotate"),
        *_factors(0.99),
        _Range("posterize", 8, 2, rounding="nearest"),
        _Range("solarize", 255, 0),
        _Range("autocontrast"),
        _Range("equalize"),
    ),
    largest=30,
)
_SPACES = {
    "rand": _RAND,
    "rand_increasing": _INCREASING,
    "rand_uniform": _UNIFORM,
    "trivial": _TRIVIAL,
}


class Policy(NamedTuple):
    """A random sequence of operators.

    Attributes:
      draw: key, (H, W) -> (operator numbers [N] int32, amounts [N] float32).
      apply: key, image [H, W, channels] uint8 -> the image after the operators that `draw` returns.
    """

    draw: Callable[[jax.Array, tuple[int, int]], tuple[jax.Array, jax.Array]]
    apply: Callable[[jax.Array, jax.Array], jax.Array]


def make_policy(
    name: str,
    *,
    count: int = 2,
    magnitude: float = 9.0,
    noise: float = 0.0,
    fill: float | Sequence[float] = 0.0,
    bilinear: bool = False,
) -> Policy:
    """Returns a policy by name.

    Args:
      name: "rand" for RandAugment (arXiv 1909.13719) with torchvision's operators and amounts,
        "rand_increasing" with timm's, "rand_uniform" with FixMatch's (arXiv 2001.07685) and uniform
        magnitudes, "trivial" for TrivialAugment's wide space (arXiv 2103.10158),
        which draws one operator and its magnitude, 0 to 30.
      count: number of operators per image, >= 1; unused by "trivial".
      magnitude: magnitude of the operators, 0 to 30, or 0 to 10 for "rand_increasing"; unused by
        "rand_uniform" and "trivial".
      noise: standard deviation of the magnitudes, which are drawn independently; unused by
        "rand_uniform" and "trivial".
      fill: value of pixels from outside the image, in [0, 255]; one number, or one per channel.
      bilinear: whether geometric operators interpolate bilinearly instead of choosing the nearest
        pixel.

    Raises:
      InputError: the name is unknown, or the magnitude is out of range.
    """
    space, is_trivial = errors.lookup("policy", name, _SPACES), name == "trivial"
    if is_trivial:
        count = 1
    elif not space.uniform and not 0 <= magnitude <= space.largest:
        raise errors.InputError(
            f"data.policy_magnitude is {magnitude:g}, but must be from 0 to {space.largest:g} for"
            f" data.policy {name}"
        )

    def draw(key, shape):
        key, noise_key = jax.random.split(key)
        positions, signs, uses, steps = jax.random.uniform(key, (4, count))
        choices = len(space.ranges)
        # A uniform number can round up to 1.
        chosen = jnp.minimum(jnp.floor(positions * choices), choices - 1).astype(jnp.int32)
        if is_trivial:
            drawn = jnp.floor(steps * (space.largest + 1))
        elif space.uniform:
            drawn = space.largest * steps
        else:
            drawn = magnitude + (noise * jax.random.normal(noise_key, (count,)) if noise else 0.0)
        drawn = jnp.broadcast_to(jnp.clip(drawn, 0, space.largest), (count,))
        amounts = _amounts(space, chosen, drawn, signs < 0.5, shape)
        numbers = jnp.asarray([operators.number(entry.operator) for entry in space.ranges])[chosen]
        is_used = uses < space.probability
        return jnp.where(is_used, numbers, operators.number("identity")), amounts

    def apply(key, image):
        chosen, amounts = jax.lax.optimization_barrier(draw(key, image.shape[:2]))
        for i in range(count):
            image = operators.apply(
                image, chosen[i], amounts[i], jnp.asarray(fill), bilinear=bilinear
            )
            image = jax.lax.optimization_barrier(image)
        return image

    return Policy(draw, apply)


def _amounts(
    space: _Space,
    chosen: jax.Array,
    magnitude: jax.Array,
    is_negative: jax.Array,
    shape: tuple[int, int],
) -> jax.Array:
    """Returns the amounts [N] float32 of operators by their positions [N] in a space's ranges."""

    def column(value, dtype=np.float32):
        return jnp.asarray(np.asarray([value(entry) for entry in space.ranges], dtype))[chosen]

    sides = {"translate_x": shape[1], "translate_y": shape[0]}
    scale = column(lambda entry: sides[entry.operator] if entry.unit == "side" else 1)
    first, last = (column(lambda entry, end=end: getattr(entry, end)) for end in ("first", "last"))
    size = (first + (last - first) * (magnitude / space.largest)) * scale
    roundings = jnp.stack([size, jnp.floor(size), jnp.round(size), jnp.ceil(size)])
    size = roundings[column(lambda e: _ROUNDINGS.index(e.rounding), int), jnp.arange(len(size))]
    size = jnp.where(is_negative & column(lambda entry: entry.signed, bool), -size, size)
    base = column(lambda entry: entry.base)
    return jnp.where(base > 0, jnp.maximum(base + size, space.minimum), size)
