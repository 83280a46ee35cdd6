"""Reads JPEG headers in a hundredth of the time of decoding."""

import struct
from typing import NamedTuple

from rrd_jax import errors
from rrd_jax.data.images import decoding

_BEGINNING, _END = b"\xff\xd8\xff", b"\xff\xd9"
# Markers of Huffman-coded frames (baseline, extended, progressive), of EXIF segments, and of
# segments that cannot precede a supported frame.
_FRAMES = (0xC0, 0xC1, 0xC2)
_EXIF = 0xE1
_NO_SEGMENTS = (*range(0x02), *range(0xD0, 0xDB), 0xFF, *range(0xC5, 0xC8), *range(0xC9, 0xCC))


class JpegHeader(NamedTuple):
    """The stored size of an 8-bit JPEG with three channels, and its EXIF orientation, 1 to 8."""

    height: int
    width: int
    orientation: int


def read(content: bytes) -> JpegHeader | None:
    """Returns the header of a complete 8-bit JPEG with three channels; None for other content.

    The orientation is 1 if the image is decoded without its EXIF orientation.
    """
    if not (content.startswith(_BEGINNING) and content.endswith(_END)):
        return None
    frame = _frame(content)
    if frame is None:
        return None
    height, width, has_exif = frame
    if not 0 < height * width <= decoding.MAX_PIXELS:
        return None
    if not (has_exif and isinstance(content, decoding.Upright)):
        return JpegHeader(height, width, 1)
    try:
        return JpegHeader(height, width, decoding.orientation(content))
    except errors.InputError:
        return None


def _frame(content: bytes) -> tuple[int, int, bool] | None:
    """Returns (height, width, has_exif) of an 8-bit JPEG with three channels, else None."""
    position, has_exif = 2, False
    while position + 19 <= len(content):
        marker, kind, length = struct.unpack_from(">BBH", content, position)
        if marker != 0xFF or kind in _NO_SEGMENTS:
            return None
        if kind in _FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", content, position + 4)
            return (height, width, has_exif) if (bits, channels) == (8, 3) else None
        has_exif |= kind == _EXIF
        position += 2 + length
    return None
