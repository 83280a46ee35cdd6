"""Decodes masks: images of one channel whose pixels are class indices."""

from typing import Any

import numpy as np

from rrd_jax import errors
from rrd_jax.data.images import decoding
from rrd_jax.data.mask_index import IGNORED

# Lossy formats and programs that write GIF change indices, and Pillow scales those of PGM.
_FORMATS = ("PNG", "TIFF", "BMP")
_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


def decode(content: bytes) -> np.ndarray:
    """Returns the class indices of a mask, uint8 [H, W], in its EXIF orientation.

    Palette images have the index of the palette entry, whatever its color. Grayscale images of 1, 2
    or 4 bits have the stored value. 255 stands for pixels without a class.

    Args:
      content: content of a PNG, TIFF or BMP file.

    Raises:
      InputError: the content is not an image, is damaged, has several channels, is compressed with
        loss, or has an index outside [0, 255].
    """
    file = decoding.open_file(content)
    if file.format not in _FORMATS:
        raise errors.InputError(
            f"a mask in format {file.format}, which may change class indices; convert it to PNG"
        )
    _check_mode(file.mode)
    bits = _gray_bits(file, content)
    # Pillow applies the orientation of TIFF files during loading.
    orientation = 1 if file.format == "TIFF" else decoding.orientation(content)
    with decoding.damage_errors():
        file.load()
        pixels = np.asarray(file)
    if file.mode == "1":
        indices = pixels.astype(np.uint8)
    elif file.mode == "L" and bits < 8:
        indices = pixels // (255 // (2**bits - 1))
    else:
        indices = _checked(pixels)
    return decoding.upright(indices[..., None], orientation)[..., 0]


def _check_mode(mode: str) -> None:
    if mode in ("1", "L", "P") or mode.startswith("I"):
        return
    if mode == "F":
        raise errors.InputError("a mask with fractional pixels; convert it to class indices")
    raise errors.InputError(
        f"a color mask ({mode}); convert its colors to class indices, in grayscale or with a"
        " palette"
    )


def _gray_bits(file: Any, content: bytes) -> int:
    """Returns the bits per pixel of a grayscale image; Pillow scales 2 and 4 bits to 8."""
    if file.format == "PNG":
        return content[24]
    if file.format == "TIFF":
        if file.mode in ("1", "L") and file.tag_v2.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
            raise errors.InputError("a mask whose indices are inverted; convert it to PNG")
        return min(file.tag_v2.get(_TIFF_BITS, (8,)))
    return 8


def _checked(pixels: np.ndarray) -> np.ndarray:
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > IGNORED:
        raise errors.InputError(
            f"class index {low if low < 0 else high} in a mask of {8 * pixels.itemsize} bits;"
            f" indices must be below {IGNORED}, or {IGNORED} for pixels without a class"
        )
    return pixels.astype(np.uint8)
