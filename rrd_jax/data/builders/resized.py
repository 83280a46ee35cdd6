"""Reduces the size of stored images, so that reading them takes less time."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import tensorflow_datasets as tfds

from rrd_jax import errors, user_paths
from rrd_jax.data.builders import ordered
from rrd_jax.data.images import decoding, jpeg_header, transforms
from rrd_jax.settings import kinds

# A file next to TFDS's metadata.
_NOTE = "resized.json"
# Bytes of a stored image per pixel of a square with the image's shorter side.
_BYTES_PER_PIXEL = 0.9


class Resize(NamedTuple):
    """A reduction of the image size.

    Attributes:
      short: pixels of the shorter side; smaller images are kept unchanged.
      quality: JPEG quality, 1 to 100.
    """

    short: int
    quality: int = 95

    def __str__(self) -> str:
        return f"a shorter side of {self.short} pixels, JPEG of quality {self.quality}"


def smaller(content: bytes, resize: Resize) -> bytes:
    """Returns an encoded RGB image, reduced by averaging over areas.

    Images that are small enough or cannot be decoded are returned unchanged. A rotated file of a
    folder is converted to an upright image: a JPEG if it is reduced, otherwise a lossless PNG. An
    image with transparency remains transparent, as a PNG.
    """
    is_folder_file = isinstance(content, decoding.Upright)
    header = jpeg_header.read(content)
    size = decoding.size(content)
    if min(size) <= resize.short and (not is_folder_file or (header and header.orientation == 1)):
        return bytes(content)
    try:
        transparent = decoding.decode_transparent(content)
        if transparent is not None:
            return _smaller_transparent(transparent, resize.short)
        pixels = transforms.decode(content, 3, kinds.NO_COLOR)
    except errors.InputError:
        return bytes(content)
    if min(size) <= resize.short:
        return transforms.encode_png(pixels)
    scaled = transforms.scale_short(pixels, resize.short)
    bgr = cv2.cvtColor(scaled, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, resize.quality])[1].tobytes()


def _smaller_transparent(pixels: np.ndarray, short: int) -> bytes:
    """Returns a PNG of an image with alpha, uint8 [H, W, 4], reduced if it is larger."""
    if min(pixels.shape[:2]) > short:
        # Hidden colors must not contribute, so colors are weighted by alpha.
        weighted = pixels.astype(np.float32)
        weighted[..., :3] *= weighted[..., 3:] / 255
        scaled = transforms.scale_short(weighted, short)
        scaled[..., :3] *= 255 / np.maximum(scaled[..., 3:], 1e-6)
        pixels = np.rint(scaled).clip(0, 255).astype(np.uint8)
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA))[1].tobytes()


def resize_examples(examples: ordered.Examples, resize: Resize) -> ordered.Examples:
    """Returns examples with reduced images."""

    def change(example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "image": smaller(example["image"], resize)}

    size = int(min(examples.size, len(examples.keys) * resize.short**2 * _BYTES_PER_PIXEL))
    return dataclasses.replace(examples, size=size, change=change)


def write_note(folder: Any, resize: Resize) -> None:
    """Writes the image size of a data set into its folder."""
    pathlib.Path(folder, _NOTE).write_text(json.dumps(resize._asdict()) + "\n")


def read_note(folder: Any) -> Resize | None:
    """Returns the reduced image size of a prepared data set; None for the original size."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Resize(**user_paths.read_json(pathlib.Path(folder, _NOTE)))
    return None


def check_same(name: str, folder: Any, resize: Resize | None) -> None:
    """Raises an InputError if a data set was prepared with another image size."""
    prepared = read_note(folder)
    if prepared != resize:
        sizes = [
            f"with {r}" if r else "with images in the original size" for r in (prepared, resize)
        ]
        raise errors.InputError(
            f"data set '{name}' is prepared under {folder} {sizes[0]}, not {sizes[1]}; remove that"
            " folder, or set --data_dir to another one"
        )


def check_possible(name: str, builder: Any, resize: Resize) -> None:
    """Raises an InputError if all images have one size, or if TFDS prepares the data set."""
    feature = dict(builder.info.features.items()).get("image")
    height, width = feature.shape[:2] if feature else (None, None)
    if isinstance(builder, ordered.OrderedBuilder) and not height:
        return
    reason = f"has images of {height}x{width} pixels" if height else "is prepared by TFDS"
    raise errors.InputError(
        f"--resize={resize.short}, but '{name}' {reason}; use --resize only for image_folder and"
        " imagenet2012"
    )


class Folder(ordered.OrderedBuilder, skip_registration=True):
    """A builder that writes a folder of images as records.

    Args:
      splits: sequences of examples with `image`, `label` and `file_name`, by split.
      classes: class names in the order of labels.
      options: options of the builder, such as `data_dir`.
    """

    name = "folder"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, splits: Mapping[str, Sequence], classes: Sequence[str], **options: Any):
        self._splits, self._classes = splits, classes
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images of a folder, reduced in size.",
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
    """Returns the builder of a folder of images, with a name such as pets_256."""
    base = re.sub(r"[^a-z0-9]+", "_", os.path.basename(os.path.realpath(root)).lower()).strip("_")
    name = f"{base or 'folder'}_{resize.short}"
    name = name if name[0].isalpha() else f"set_{name}"
    options = {"data_dir": data_dir} if data_dir else {}
    return type("ResizedFolder", (Folder,), {"name": name}, skip_registration=True)(
        splits, classes, **options
    )
