"""Folders of tiny images for tests."""

import io
import pathlib

import numpy as np
import PIL.Image

from rrd_jax import data

_RNG = np.random.default_rng(0)


def encoded(kind="JPEG", size=(12, 10), **options):
    """An image of random pixels, another one each time."""
    file = io.BytesIO()
    pixels = _RNG.integers(0, 256, (*size[::-1], 3), np.uint8)
    PIL.Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def put(path, content=None):
    """Writes a file, an image if nothing else is given."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded() if content is None else content)


def fill(root, classes=("cat", "dog"), number=30):
    """A folder of images for each class."""
    for label in classes:
        for i in range(number):
            put(root / label / f"{i}.jpg")


def load(root, **options):
    """The folder as a data set."""
    given = {"image_size": 8, "augment": "none", "dir": str(root.parent / "index")}
    return data.load(data.Source("image_folder", manual_dir=str(root), **(given | options)))
