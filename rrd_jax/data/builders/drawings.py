"""A generated data set of drawings with exact masks, for tests of dense features."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rrd_jax.data.images.transforms import encode_png
from rrd_jax.data.mask_index import IGNORED

# The texture of each shape; class 0 of masks is the background.
_TEXTURES = {
    "disc": "rows",
    "ring": "columns",
    "triangle": "checks",
    "star": "noise",
    "cross": "diagonal",
    "bar": "plain",
}
SHAPES = tuple(_TEXTURES)
SIZE = 48
_COUNTS = {"train": 2000, "test": 250}
_SEEDS = {"train": 0, "test": 1}
# Samples per pixel and axis, for the coverage of a pixel by a shape.
_SAMPLES = 4
# Numbers of shapes in an image, their relative sizes, and the smallest visible share of a shape.
_NUMBERS, _SIZES, _VISIBLE = (1, 2), (0.45, 0.8), 0.4
# Largest rotation of a shape, in radians.
_TILT = 0.3
# A pixel has no class if the uppermost shape covers it partly.
_PARTIAL = (0.1, 0.9)


class Drawings(tfds.core.GeneratorBasedBuilder):
    """Generated drawings: one or two textured shapes on a gradient, 48 x 48 pixels, with masks.

    2 000 images are for training and 250 for testing. `mask` has the class of each pixel, 0 for the
    background and 255 at the borders of shapes. `label` is the shape with the most visible pixels.
    Each shape has its own texture, and colors are random. Image i of a split depends on its seed
    and i.
    """

    name = "drawings"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 3)),
                    "mask": tfds.features.Image(shape=(SIZE, SIZE, 1)),
                    "label": tfds.features.ClassLabel(names=list(SHAPES)),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        return {split: _examples(split) for split in _COUNTS}

    def _generate_examples(self) -> None:
        raise NotImplementedError("the splits contain their examples")


def _examples(split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for i in range(_COUNTS[split]):
        image, mask, label = draw(np.random.default_rng((_SEEDS[split], i)))
        yield i, {"image": encode_png(image), "mask": encode_png(mask[..., None]), "label": label}


def draw(rng: np.random.Generator, size: int = SIZE) -> tuple[np.ndarray, np.ndarray, int]:
    """Draws an image.

    Args:
      rng: source of random numbers.
      size: height and width.

    Returns:
      The image, uint8 [size, size, 3]; the mask, uint8 [size, size]; and the index in SHAPES of the
      shape with the most visible pixels.
    """
    while True:
        image, mask = _texture(rng, size, "gradient"), np.zeros((size, size), np.uint8)
        areas = []
        for _ in range(rng.integers(_NUMBERS[0], _NUMBERS[1] + 1)):
            shape = int(rng.integers(len(SHAPES)))
            coverage = _coverage(rng, SHAPES[shape], size)
            texture = _texture(rng, size, _TEXTURES[SHAPES[shape]])
            image += coverage[..., None] * (texture - image)
            mask[coverage >= 0.5] = shape + 1
            mask[(coverage > _PARTIAL[0]) & (coverage < _PARTIAL[1])] = IGNORED
            areas.append((shape, coverage.sum()))
        visible = np.bincount(mask[mask != IGNORED], minlength=len(SHAPES) + 1)[1:]
        # A shape that others cover is drawn again; two equal shapes share their pixels.
        totals = np.zeros(len(SHAPES))
        for shape, area in areas:
            totals[shape] += area
        if (visible >= _VISIBLE * totals).all():
            return np.rint(image).astype(np.uint8), mask, int(visible.argmax())


def _coverage(rng: np.random.Generator, shape: str, size: int) -> np.ndarray:
    """Returns the share of each pixel [size, size] that a shape at a random place covers."""
    radius = size * rng.uniform(*_SIZES) / 2
    x, y = rng.uniform(0.6 * radius, size - 0.6 * radius, 2)
    angle = rng.uniform(-_TILT, _TILT)
    samples = (np.arange(size * _SAMPLES) + 0.5) / _SAMPLES
    dx, dy = (samples - x)[None] / radius, (samples - y)[:, None] / radius
    u = np.cos(angle) * dx + np.sin(angle) * dy
    v = np.cos(angle) * dy - np.sin(angle) * dx
    inside = _contains(shape, u, v)
    return inside.reshape(size, _SAMPLES, size, _SAMPLES).mean(axis=(1, 3))


def _contains(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Returns whether points are inside a shape within the unit circle."""
    radius, wide = np.hypot(u, v), np.maximum(np.abs(u), np.abs(v))
    if shape == "disc":
        return radius < 0.85
    if shape == "ring":
        return (radius < 1) & (radius > 0.6)
    if shape == "triangle":
        corners = (np.pi / 2, np.pi * 7 / 6, np.pi * 11 / 6)
        return np.all([u * np.cos(a) + v * np.sin(a) > -0.5 for a in corners], axis=0)
    if shape == "star":
        # The radius of a star falls linearly between a tip and a notch.
        turn = np.abs((np.arctan2(v, u) * 5 / np.pi) % 2 - 1)
        return radius < 0.4 + 0.6 * turn
    if shape == "cross":
        return (np.minimum(np.abs(u), np.abs(v)) < 0.28) & (wide < 0.95)
    return (np.abs(u) < 1) & (np.abs(v) < 0.3)


def _texture(rng: np.random.Generator, size: int, kind: str) -> np.ndarray:
    """Returns a texture of two random colors, [size, size, 3] in [0, 255]."""
    first = rng.uniform(30, 225, 3)
    # The second color differs from the first in each channel.
    second = first + np.where(first < 128, 1, -1) * rng.uniform(60, 110, 3)
    x, y = np.arange(size)[None] + 0 * np.arange(size)[:, None], np.arange(size)[:, None]
    phase, period = rng.uniform(0, 2 * np.pi), rng.uniform(5, 7)

    def wave(position):
        return np.sin(2 * np.pi * position / period + phase)

    share = {
        "rows": lambda: wave(y + 0 * x),
        "columns": lambda: wave(x),
        "diagonal": lambda: wave((x + y) / np.sqrt(2)),
        "checks": lambda: np.sign(wave(x) * wave(y)),
        "noise": lambda: rng.uniform(-1, 1, (size, size)),
        "plain": lambda: np.zeros((size, size)),
        "gradient": lambda: 2 * x / size - 1,
    }[kind]()
    texture = first + (0.5 + 0.5 * share[..., None]) * (second - first)
    return np.clip(texture + rng.normal(0, 4, texture.shape), 0, 255)
