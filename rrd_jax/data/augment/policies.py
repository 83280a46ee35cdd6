"""Which operators change an image, and by how much: RandAugment, TrivialAugment.

A policy draws operators and amounts of a key, and nothing else: what becomes of an image does not
depend on the others of its batch.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors
from rrd_jax.data.augment import operators

POLICIES = ("none", "rand", "rand_increasing", "trivial")
_ROUNDINGS = ("none", "down", "nearest", "up")


class _Range(NamedTuple):
    """The amounts of an operator, from magnitude 0 to the largest one.

    Attributes:
      operator: a name in OPERATORS.
      first: amount of magnitude 0.
      last: amount of the largest magnitude.
      signed: whether half of the amounts are negative.
      base: what is added to an amount, after its sign.
      rounding: of an amount, before its sign.
      unit: "side" where amounts are parts of the image's height or width.
    """

    operator: str
    first: float = 0.0
    last: float = 0.0
    signed: bool = False
    base: float = 0.0
    rounding: str = "none"
    unit: str = ""


class _Space(NamedTuple):
    """The operators that a policy chooses from, each as likely, and the largest magnitude."""

    ranges: tuple[_Range, ...]
    largest: float
    probability: float = 1.0  # that a chosen operator is used
    least: float = 0.0  # of factors


def _factors(last: float) -> tuple[_Range, ...]:
    names = ("brightness", "color", "contrast", "sharpness")
    return tuple(_Range(name, last=last, signed=True, base=1.0) for name in names)


def _signed(last: float, *names: str) -> tuple[_Range, ...]:
    return tuple(_Range(name, last=last, signed=True) for name in names)


def _moves(last: float, unit: str, rounding: str) -> tuple[_Range, ...]:
    names = ("translate_x", "translate_y")
    return tuple(_Range(n, last=last, signed=True, rounding=rounding, unit=unit) for n in names)


# RandAugment as torchvision has it, whose magnitudes are 0 to 30; the largest are as here.
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
# timm's `rand-m9-mstd0.5-inc1`, which trains DeiT: magnitudes are 0 to 10, and half of the chosen
# operators are not used.
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
    least=0.1,
)
# TrivialAugment's wide space, as in the paper and torchvision.
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
_SPACES = {"rand": _RAND, "rand_increasing": _INCREASING, "trivial": _TRIVIAL}


class Policy(NamedTuple):
    """Random changes of an image.

    Attributes:
      draw: key, (H, W) -> ([N] int32 operators by their number, [N] float32 amounts).
      apply: key, image [H, W, channels] uint8 -> image, changed by what `draw` has drawn.
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
        "rand_increasing" with timm's, "trivial" for TrivialAugment's wide space (arXiv 2103.10158),
        which draws one operator and its magnitude, 0 to 30.
      count: of operators one after the other, >= 1; not of "trivial".
      magnitude: how much they change, from 0 to 30, of "rand_increasing" to 10; not of "trivial".
      noise: standard deviation of the magnitudes around that, each drawn by itself; likewise.
      fill: of pixels that come from outside the image, in [0, 255]; a number, or one a channel.
      bilinear: whether moved pixels are means of four, and not the nearest one.

    Raises:
      InputError: an unknown name, or a magnitude that the policy does not have.
    """
    space, is_trivial = errors.lookup("policy", name, _SPACES), name == "trivial"
    if is_trivial:
        count = 1
    elif not 0 <= magnitude <= space.largest:
        raise errors.InputError(
            f"data.policy_magnitude is {magnitude:g}, but must be from 0 to {space.largest:g} for"
            f" data.policy {name}"
        )

    def draw(key, shape):
        key, noise_key = jax.random.split(key)
        places, signs, uses, steps = jax.random.uniform(key, (4, count))
        choices = len(space.ranges)
        # A uniform number can round up to 1.
        chosen = jnp.minimum(jnp.floor(places * choices), choices - 1).astype(jnp.int32)
        if is_trivial:
            drawn = jnp.floor(steps * (space.largest + 1))
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
    """[N] float32: amounts of operators, given by their places [N] in a space's ranges."""

    def column(of, dtype=np.float32):
        return jnp.asarray(np.asarray([of(entry) for entry in space.ranges], dtype))[chosen]

    sides = {"translate_x": shape[1], "translate_y": shape[0]}
    scale = column(lambda entry: sides[entry.operator] if entry.unit == "side" else 1)
    first, last = (column(lambda entry, end=end: getattr(entry, end)) for end in ("first", "last"))
    size = (first + (last - first) * (magnitude / space.largest)) * scale
    roundings = jnp.stack([size, jnp.floor(size), jnp.round(size), jnp.ceil(size)])
    size = roundings[column(lambda e: _ROUNDINGS.index(e.rounding), int), jnp.arange(len(size))]
    size = jnp.where(is_negative & column(lambda entry: entry.signed, bool), -size, size)
    base = column(lambda entry: entry.base)
    return jnp.where(base > 0, jnp.maximum(base + size, space.least), size)
