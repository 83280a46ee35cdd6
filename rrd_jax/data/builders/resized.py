"""Stores the images of a set with a smaller size, so that reading them takes less time."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import tensorflow_datasets as tfds

from rrd_jax import errors
from rrd_jax.data.builders import ordered
from rrd_jax.data.images import decoding, jpeg_header, transforms

_NOTE = "resized.json"  # beside TFDS's own notes
_PER_PIXEL = 0.9  # bytes that a stored image has for each pixel of a square of its shorter side


class Resize(NamedTuple):
    """How images are made smaller.

    Attributes:
      short: pixels of the shorter side; images with fewer stay as they are.
      quality: of JPEG, 1 to 100.
    """

    short: int
    quality: int = 95

    def __str__(self) -> str:
        return f"a shorter side of {self.short} pixels, JPEG of quality {self.quality}"


def smaller(content: bytes, resize: Resize) -> bytes:
    """Returns an encoded image in RGB, scaled by the average of areas.

    Images that are small enough, or cannot be decoded, stay as they are. A file of a folder becomes
    upright: a JPEG, or without loss a PNG, that any prepared set may have.
    """
    of_folder = isinstance(content, decoding.Upright)
    header = jpeg_header.read(content)
    size = decoding.size(content)
    if min(size) <= resize.short and (not of_folder or (header and header.orientation == 1)):
        return bytes(content)
    try:
        pixels = transforms.decode(content, 3)
    except errors.InputError:
        return bytes(content)
    if min(size) <= resize.short:
        return transforms.encode_png(pixels)
    scaled = transforms.scale_short(pixels, resize.short)
    bgr = cv2.cvtColor(scaled, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, resize.quality])[1].tobytes()


def examples(of: ordered.Examples, resize: Resize) -> ordered.Examples:
    """Returns the same examples with smaller images."""

    def change(example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "image": smaller(example["image"], resize)}

    size = int(min(of.size, len(of.keys) * resize.short**2 * _PER_PIXEL))
    return dataclasses.replace(of, size=size, change=change)


def note(folder: Any, resize: Resize) -> None:
    """Writes the size of the images of a set into its folder."""
    pathlib.Path(folder, _NOTE).write_text(json.dumps(resize._asdict()) + "\n")


def noted(folder: Any) -> Resize | None:
    """Returns the size that the images of a prepared set were reduced to; None if they were not."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Resize(**errors.read_json(pathlib.Path(folder, _NOTE)))
    return None


def check_same(name: str, folder: Any, resize: Resize | None) -> None:
    """Raises an InputError if a set is prepared with images of another size."""
    prepared = noted(folder)
    if prepared != resize:
        sizes = [f"with {r}" if r else "with images as they came" for r in (prepared, resize)]
        raise errors.InputError(
            f"data set '{name}' is prepared under {folder} {sizes[0]}, not {sizes[1]}: remove that"
            " folder, or name another one with --data_dir"
        )


def check_possible(name: str, builder: Any, resize: Resize) -> None:
    """Raises an InputError for a set whose images all have one size, or that TFDS prepares."""
    feature = dict(builder.info.features.items()).get("image")
    height, width = feature.shape[:2] if feature else (None, None)
    if isinstance(builder, ordered.OrderedBuilder) and not height:
        return
    why = f"has images of {height} x {width}" if height else "is prepared by TFDS"
    raise errors.InputError(
        f"--resize={resize.short}, but '{name}' {why}: it is for image_folder and imagenet2012"
    )


class Folder(ordered.OrderedBuilder, skip_registration=True):
    """A folder of images as a set with records.

    Args:
      splits: random access to examples with `image`, `label` and `file_name`, by name.
      classes: their names, in the order of labels.
      options: of the builder, as `data_dir`.
    """

    name = "folder"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, splits: Mapping[str, Sequence], classes: Sequence[str], **options: Any):
        self._splits, self._classes = splits, classes
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images of a folder, made smaller.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=list(self._classes)),
                    "file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _examples(self) -> Mapping[str, ordered.Examples]:
        return {
            split: ordered.Examples(split_examples.names, 2**60, split_examples.__getitem__)
            for split, split_examples in self._splits.items()
        }


def folder_builder(
    root: str, splits: Mapping[str, Sequence], classes: Sequence[str], resize: Resize, data_dir: str
) -> Folder:
    """Returns the builder of a folder of images, named such as pets_256."""
    base = re.sub(r"[^a-z0-9]+", "_", os.path.basename(os.path.realpath(root)).lower()).strip("_")
    name = f"{base or 'folder'}_{resize.short}"
    name = name if name[0].isalpha() else f"set_{name}"
    options = {"data_dir": data_dir} if data_dir else {}
    return type("ResizedFolder", (Folder,), {"name": name}, skip_registration=True)(
        splits, classes, **options
    )
