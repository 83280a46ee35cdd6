"""Folders of tiny images for tests."""

import io
import pathlib

import numpy as np
import PIL.Image

from rrd_jax import data

_RNG = np.random.default_rng(0)


def encoded(kind="JPEG", size=(12, 10), **options):
    """Returns an encoded image of random pixels; each call draws a new image."""
    file = io.BytesIO()
    pixels = _RNG.integers(0, 256, (*size[::-1], 3), np.uint8)
    PIL.Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def put(path, content=None):
    """Writes `content` to a file, or a random JPEG if `content` is None."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded() if content is None else content)


def fill(root, classes=("cat", "dog"), number=30):
    """Writes one folder of `number` JPEGs per class."""
    for label in classes:
        for i in range(number):
            put(root / label / f"{i}.jpg")


def load(root, **options):
    """Loads the folder as a data set; its index goes into a folder next to `root`."""
    defaults = {"image_size": 8, "augment": "none", "dir": str(root.parent / "index")}
    return data.load(data.Source("image_folder", manual_dir=str(root), **(defaults | options)))
