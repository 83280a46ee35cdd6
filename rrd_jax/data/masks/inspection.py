"""Checks images and masks, each file once, and the agreement of both."""

import collections
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rrd_jax import errors
from rrd_jax.data.folder import inspection
from rrd_jax.data.folder.file_tree import File
from rrd_jax.data.folder.mask_pairing import Pair
from rrd_jax.data.images import decoding, image_files
from rrd_jax.data.mask_index import IGNORED
from rrd_jax.data.masks.decoding import decode

# Orientations in EXIF that exchange width and height.
_TRANSPOSED = (5, 6, 7, 8)


class CheckedPart(NamedTuple):
    """The result of inspecting an image or a mask.

    Attributes:
      digest: digest of the content; "" if the file is not readable.
      format: Pillow's name of the format; "" if the file is not readable.
      width: upright width in pixels.
      height: upright height in pixels.
      problem: the reason why the file cannot be used; "" for none.
      orientation: EXIF orientation, 1 to 8.
      pixels: (index, number of pixels) of each class index in a mask; () for an image.
    """

    digest: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""
    orientation: int = 1
    pixels: Sequence[Sequence[int]] = ()

    @property
    def is_complete(self) -> bool:
        """True, because all versions of the index have the same properties."""
        return True


def check_parts(
    root: str, files: Sequence[File], pairs: Sequence[Pair], index_file: pathlib.Path
) -> dict[int, CheckedPart]:
    """Inspects the images and masks of all pairs.

    Args:
      root: folder that the paths are relative to.
      files: all files of the folder.
      pairs: the pairs.
      index_file: index of earlier results; see `folder.inspection.check_all`.

    Returns:
      {index of a file: result}.
    """
    masks = {files[pair.mask].path for pair in pairs}
    used = sorted(index for pair in pairs for index in (pair.image, pair.mask))

    def check(root: str, file: File) -> CheckedPart:
        return _check_file(root, file, is_mask=file.path in masks)

    results = inspection.check_all(
        root, [files[i] for i in used], index_file, check=check, result_type=CheckedPart
    )
    return dict(zip(used, results, strict=True))


def _check_file(root: str, file: File, *, is_mask: bool) -> CheckedPart:
    try:
        content = image_files.read(os.path.join(root, file.path))
        header = decoding.check(content)
        height, width = _upright_size(content, header)
        part = CheckedPart(
            inspection.digest(content),
            header.format,
            width,
            height,
            orientation=decoding.orientation(content),
        )
        if not is_mask:
            return part
        indices = decode(content)
    except errors.InputError as error:
        return CheckedPart(problem=str(error))
    except OSError as error:
        return CheckedPart(problem=f"cannot be read ({image_files.reason(error)})")
    counts = np.bincount(indices.ravel(), minlength=1)
    pixels = [[int(i), int(counts[i])] for i in np.flatnonzero(counts)]
    return part._replace(pixels=pixels)


def _upright_size(content: bytes, header: decoding.Header) -> tuple[int, int]:
    """Returns (height, width) of the decoded image."""
    if header.format == "TIFF":
        # Versions of Pillow differ in the size that the header of a rotated TIFF file reports.
        return decoding.decode(content).shape[:2]
    if decoding.orientation(content) in _TRANSPOSED:
        return header.width, header.height
    return header.height, header.width


def pair_problem(image: CheckedPart, mask: CheckedPart, num_classes: int) -> tuple[str, str]:
    """Returns what is wrong with a pair: ("image" or "mask", reason); ("", "") for nothing.

    Args:
      image: result of the image.
      mask: result of the mask.
      num_classes: C; indices from C to 254 are wrong.
    """
    if image.problem:
        return "image", image.problem
    if mask.problem:
        return "mask", mask.problem
    if (image.width, image.height) != (mask.width, mask.height):
        sizes = f"{mask.width}x{mask.height} pixels for an image of {image.width}x{image.height}"
        turned = (image.height, image.width) == (mask.width, mask.height)
        if turned and image.orientation in _TRANSPOSED:
            sizes += ", which its EXIF orientation turns; turn the mask as well"
        return "mask", f"a mask of {sizes}"
    indices = [index for index, _ in mask.pixels if index != IGNORED]
    if not indices:
        return "mask", f"all pixels are {IGNORED}, without a class"
    if indices[-1] >= num_classes:
        return "mask", f"class index {indices[-1]}, but there are {num_classes} class names"
    return "", ""


def count_pixels(masks: Sequence[CheckedPart]) -> collections.Counter:
    """Returns the number of pixels with each class index, including 255."""
    total: collections.Counter = collections.Counter()
    for mask in masks:
        total.update(dict(mask.pixels))
    return total
