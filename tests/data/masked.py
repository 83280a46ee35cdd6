"""Folders of small images with exact masks for tests."""

import io

import numpy as np
import PIL.Image

from tests.data import folders

PALETTE = [value for index in range(256) for value in (index, 255 - index, index * 7 % 256)]


def encoded(indices, kind="PNG", mode="L", **options):
    """Returns an encoded mask of class indices [H, W]."""
    file = io.BytesIO()
    image = PIL.Image.fromarray(np.asarray(indices, np.uint8), "P" if mode == "P" else "L")
    if mode == "P":
        image.putpalette(PALETTE)
    image.save(file, kind, **options)
    return file.getvalue()


def image_of(indices, **options):
    """Returns an encoded image, lossless, whose brightness shows the class indices [H, W]."""
    file = io.BytesIO()
    pixels = np.repeat(np.asarray(indices, np.uint8)[..., None] * 50, 3, axis=-1)
    PIL.Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def indices_of(number, size=(12, 16), classes=4):
    """Returns class indices of an example: rectangles on class 0, and a row without a class."""
    rng = np.random.default_rng(number)
    indices = np.zeros(size, np.uint8)
    for index in range(1, classes):
        top, left = rng.integers(0, size[0] - 4), rng.integers(0, size[1] - 4)
        indices[top : top + 4, left : left + 4] = index
    indices[-1] = 255
    return indices


def fill(root, number=12, images="images", masks="masks", size=(12, 16), classes=4, start=0):
    """Writes images and their masks."""
    for i in range(start, start + number):
        indices = indices_of(i, size, classes)
        folders.put(root / images / f"{i}.png", image_of(np.where(indices == 255, 0, indices)))
        folders.put(root / masks / f"{i}.png", encoded(indices))
    return root
