"""Decodes image files of common formats to upright 8-bit RGB or grayscale pixels.

Pillow detects the format by the content and decodes most formats; OpenCV decodes JPEG to the same
pixels in a third of the time.
"""

import contextlib
import functools
import importlib
import io
import struct
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import PIL.Image

from rrd_jax import errors
from rrd_jax.data.images import transparency
from rrd_jax.settings import kinds

# Twice Pillow's MAX_IMAGE_PIXELS, the limit of Pillow itself. No camera reaches this limit, which
# is half a gigabyte decoded, but a damaged header can claim any size.
MAX_PIXELS = 178_956_970
# Formats that start other programs (EPS, WMF) or are recognized only by suffix (TGA) are excluded.
_FORMATS = (
    *("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "QOI"),
    *("AVIF", "HEIF"),
)
# A byte of PNG can encode about 1000 pixels of uniform color. Larger ratios need a full decode.
_MAX_PNG_RATIO = 1000
# First bytes of JPEG and PNG, whose truncated files decode without an error.
_TRUNCATABLE = (b"\xff\xd8\xff", b"\x89PNG")
_HEIF = (b"heic", b"heix", b"heif", b"hevc", b"mif1", b"msf1")

# Pillow warns about unusual metadata and large images of each file; this module checks both.
warnings.filterwarnings("ignore", module=r"PIL\..*")


class Header(NamedTuple):
    """The properties of an image file.

    Attributes:
      format: Pillow's name of the format.
      width: stored width in pixels.
      height: stored height in pixels.
      transparent: whether a pixel is transparent.
    """

    format: str
    width: int
    height: int
    transparent: bool = False


class Upright(bytes):
    """An encoded image that is decoded by `decode`, which applies its EXIF orientation."""


class UnknownError(errors.InputError):
    """The error for bytes without a known image format."""


def decode(content: bytes, channels: int = 3, background: str = "white") -> np.ndarray:
    """Returns the first image of a file, uint8 [H, W, channels], in its EXIF orientation.

    RGB pixels equal those of Pillow's convert("RGB") and ImageOps.exif_transpose; images with
    transparent pixels are composited as by Image.alpha_composite. 16-bit values keep their upper 8
    bits. Grayscale conversion uses OpenCV, as for prepared data sets.

    Args:
      content: content of the file.
      channels: 3 for RGB, 1 for grayscale.
      background: color behind transparent pixels, see `settings.kinds.Color`.

    Raises:
      InputError: the content is not an image, is damaged, or has too many pixels or pixels of
        more than 16 bits.
    """
    file = open_file(content)
    pixels = _composited(file, content, background)
    if pixels is not None:
        pixels = to_grayscale(pixels) if channels == 1 else pixels
        return upright(pixels, _orientation(file))
    uses_opencv = file.format in ("JPEG", "MPO") and file.mode in ("L", "RGB")
    if uses_opencv or (channels == 1 and file.format == "PNG"):
        color = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
        flags = color | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
        if pixels is not None:
            return upright(pixels.reshape(*pixels.shape[:2], channels), _orientation(file))
    pixels = _pixels(file, content)
    if channels == 1:
        pixels = to_grayscale(pixels)
    # Pillow has already applied and removed the orientation of TIFF files.
    return upright(pixels, _orientation(file))


def composited(content: bytes, background: str) -> np.ndarray | None:
    """Returns an image on a background, uint8 [H, W, 3], in its stored orientation.

    Args:
      content: an encoded image.
      background: color behind transparent pixels, see `settings.kinds.Color`.

    Returns:
      The pixels; None for an opaque image, content that cannot be decoded, and background "none".
    """
    if background == kinds.NO_COLOR or not transparency.may_be_transparent(content):
        return None
    try:
        return _composited(open_file(content), content, background)
    except errors.InputError:
        return None


def decode_transparent(content: bytes) -> np.ndarray | None:
    """Returns an upright image, uint8 [H, W, 4] with alpha; None for an opaque image."""
    file = open_file(content)
    pixels = _rgba(file, content)
    return None if pixels is None else upright(pixels, _orientation(file))


def _composited(file: PIL.Image.Image, content: bytes, background: str) -> np.ndarray | None:
    pixels = None if background == kinds.NO_COLOR else _rgba(file, content)
    return None if pixels is None else transparency.composite(pixels, background)


def _rgba(file: PIL.Image.Image, content: bytes) -> np.ndarray | None:
    """Returns an image with alpha; None for an opaque or damaged image."""
    if not transparency.may_be_transparent(content):
        return None
    try:
        return transparency.rgba(file, content)
    # The caller decodes the image without transparency, and reports damage.
    except Exception:
        return None


def to_grayscale(pixels: np.ndarray) -> np.ndarray:
    """Converts RGB uint8 [H, W, 3] to grayscale uint8 [H, W, 1]."""
    return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)[..., None]


def decode_whole(content: bytes, channels: int, background: str) -> np.ndarray:
    """Calls `decode` after a check that also rejects truncated JPEG and PNG files."""
    if content.startswith(_TRUNCATABLE):
        check(content)
    return decode(content, channels, background)


def check(content: bytes) -> Header:
    """Returns the header of a complete image file.

    JPEG files, and PNG files without transparency, are mostly not decoded.

    Raises:
      UnknownError: the content is not an image.
      InputError: see `decode`; or the file is truncated.
    """
    header = _check_complete(content)
    return header._replace(transparent=_rgba(open_file(content), content) is not None)


def _check_complete(content: bytes) -> Header:
    file = open_file(content)
    header = Header(file.format, *file.size)
    if file.format in ("JPEG", "MPO"):
        # The end marker must follow the last scan; a thumbnail has an end marker before the image.
        if content.rfind(b"\xff\xd9") > content.rfind(b"\xff\xda") > 0:
            return header
        # An interrupted copy may end in zeros.
        if content.endswith(bytes(64)):
            raise errors.InputError("truncated file: the content ends in zeros")
    elif file.format == "PNG" and b"IEND" in content[-1024:]:
        # The method `verify` compares checksums and leaves the file object unusable.
        with damage_errors():
            file.verify()
        if header.width * header.height < _MAX_PNG_RATIO * len(content):
            return header
        file = open_file(content)
    _pixels(file, content)
    return header


def size(content: bytes) -> tuple[int, int]:
    """Returns (height, width) from the header; (0, 0) if the header cannot be read."""
    try:
        return open_file(content).size[::-1]
    except errors.InputError:
        return 0, 0


def orientation(content: bytes) -> int:
    """Returns the EXIF orientation of an image file, 1 to 8.

    Raises:
      InputError: see `decode`.
    """
    return _orientation(open_file(content))


def check_size(content: bytes) -> None:
    """Raises an InputError for an encoded image that claims too many pixels."""
    # Prepared sets store small images as PNG, where reading the header directly saves time.
    if content.startswith(b"\x89PNG") and len(content) > 24:
        width, height = struct.unpack(">II", content[16:24])
        if width * height > MAX_PIXELS:
            raise _TooLargeError(_too_large(f"{width} x {height}"))
        return
    try:
        open_file(content)
    except UnknownError:
        # The decoder of the caller may support more formats.
        pass
    except errors.InputError as error:
        if isinstance(error, _TooLargeError):
            raise


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation, 1 to 8, to an image [H, W, channels]."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


class _TooLargeError(errors.InputError):
    """The error for a header that claims too many pixels."""


@contextlib.contextmanager
def damage_errors() -> Iterator[None]:
    """Converts the exceptions that Pillow raises for damaged files to an InputError."""
    try:
        yield
    except errors.InputError:
        raise
    except Exception as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise errors.InputError(f"damaged file ({reason})") from error


def open_file(content: bytes) -> PIL.Image.Image:
    """Opens an image and reads the header without decoding pixels.

    Raises:
      UnknownError: the content is not an image.
      InputError: see `decode`.
    """
    try:
        file = PIL.Image.open(io.BytesIO(content), formats=_formats())
    except PIL.Image.DecompressionBombError as error:
        raise _TooLargeError(_too_large(str(error))) from error
    except PIL.UnidentifiedImageError as error:
        if content[4:8] == b"ftyp" and content[8:12] in _HEIF and "HEIF" not in _formats():
            raise errors.InputError(
                "HEIC files need pillow-heif; run `pip install 'rrd_jax[heic]'`"
            ) from error
        raise UnknownError("not an image, or an unsupported format") from error
    # Pillow raises many types of exceptions for damaged files.
    except Exception as error:
        raise errors.InputError(f"damaged file ({error or type(error).__name__})") from error
    width, height = file.size
    # Users may have raised Pillow's own limit.
    if width * height > MAX_PIXELS:
        raise _TooLargeError(_too_large(f"{width} x {height}"))
    if not (width and height):
        raise errors.InputError(f"damaged file (the size is {width} x {height})")
    return file


def _too_large(text: str) -> str:
    number = text.removeprefix("Image size (").split(" pixels")[0]
    return f"the header claims {number} pixels, more than the limit of {MAX_PIXELS:,}"


@functools.cache
def _formats() -> tuple[str, ...]:
    """Returns the formats of _FORMATS that Pillow and its installed plugins support."""
    PIL.Image.init()
    # The package pillow-heif is an optional extra.
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in _FORMATS if name in PIL.Image.OPEN)


def _orientation(file: PIL.Image.Image) -> int:
    try:
        return int(file.getexif().get(0x0112, 1))
    # Pillow raises many types of exceptions for damaged metadata, which browsers ignore as well.
    except Exception:
        return 1


def _pixels(file: PIL.Image.Image, content: bytes) -> np.ndarray:
    try:
        file.load()
    except Exception:
        pixels = _decode_tiff_by_opencv(content) if file.format == "TIFF" else None
        if pixels is not None:
            return pixels
        with damage_errors():
            raise
    is_gray16 = file.mode == "I" and file.format in ("PNG", "PPM")
    if file.mode.startswith("I;16") or is_gray16:
        gray = (np.asarray(file) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=-1)
    if file.mode in ("I", "F"):
        raise errors.InputError("the image has 32-bit pixels; convert it to 8 or 16 bits")
    with damage_errors():
        # Modes with premultiplied transparency.
        if file.mode in ("La", "RGBa"):
            file = file.convert("LA" if file.mode == "La" else "RGBA")
        return np.array(file.convert("RGB"))


def _decode_tiff_by_opencv(content: bytes) -> np.ndarray | None:
    """Decodes a TIFF variant that Pillow does not support; None if OpenCV fails as well."""
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None
