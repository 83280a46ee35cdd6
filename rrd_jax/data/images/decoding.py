"""Image files of any usual format as pixels: upright, in 8 bits, three colours.

Pillow decides what a file is, by its content, and reads it; OpenCV decodes the common JPEG, into
the same pixels in a third of the time.
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

# Twice Pillow's MAX_IMAGE_PIXELS, where Pillow itself refuses: more than any camera makes, and half
# a gigabyte decoded. A header of a few bytes can claim any size.
MAX_PIXELS = 178_956_970
# Not those that start other programs (EPS, WMF), nor those that are known by name alone (TGA).
_FORMATS = (
    *("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "QOI"),
    *("AVIF", "HEIF"),
)
_DEFLATED = 1000  # pixels that a byte of PNG can stand for, of a plain image
_HALVES = (b"\xff\xd8\xff", b"\x89PNG")  # beginnings of JPEG and PNG, which decode where cut off
_HEIF = (b"heic", b"heix", b"heif", b"hevc", b"mif1", b"msf1")

# Of doubtful metadata and large images, a line for each file; both are checked here.
warnings.filterwarnings("ignore", module=r"PIL\..*")


class Header(NamedTuple):
    """What a file says of itself: `format` as Pillow calls it, `width` and `height` as stored."""

    format: str
    width: int
    height: int


class Upright(bytes):
    """An encoded image that `decode` is to decode, and not as prepared sets are."""


class UnknownError(errors.InputError):
    """The bytes are of no known format."""


def decode(content: bytes, channels: int = 3) -> np.ndarray:
    """[H, W, channels] uint8 of a file's first image, turned as its EXIF orientation says.

    RGB is as Pillow's convert("RGB") and ImageOps.exif_transpose have it: transparency is dropped.
    Of 16 bits the upper 8 are taken. Grey is as prepared sets are decoded, by OpenCV.

    Args:
      content: of the file.
      channels: 3 for RGB, 1 for grey.

    Raises:
      InputError: no image, a damaged one, too many pixels, or pixels of more than 16 bits.
    """
    file = _open(content)
    by_opencv = file.format in ("JPEG", "MPO") and file.mode in ("L", "RGB")
    if by_opencv or (channels == 1 and file.format == "PNG"):
        colour = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
        flags = colour | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
        if pixels is not None:
            return upright(pixels.reshape(*pixels.shape[:2], channels), _orientation(file))
    pixels = _pixels(file, content)
    if channels == 1:
        pixels = grey(pixels)
    return upright(pixels, _orientation(file))  # that of TIFF is done, and gone, by now


def grey(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 1] of RGB [H, W, 3], both uint8."""
    return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)[..., None]


def decode_whole(content: bytes, channels: int) -> np.ndarray:
    """`decode`, for a file that nobody has looked at before: half a JPEG or PNG is refused too."""
    if content.startswith(_HALVES):
        check(content)
    return decode(content, channels)


def check(content: bytes) -> Header:
    """What a file is, if all of it is there; JPEG and PNG are not decoded for that.

    Raises:
      UnknownError: no image.
      InputError: as `decode`.
    """
    file = _open(content)
    header = Header(file.format, *file.size)
    if file.format in ("JPEG", "MPO"):
        # The scans, up to the end mark. A thumbnail has one too, before the image begins.
        if content.rfind(b"\xff\xd9") > content.rfind(b"\xff\xda") > 0:
            return header
        if content.endswith(bytes(64)):  # of a copy that broke off
            raise errors.InputError("it is cut off: it ends in zeros")
    elif file.format == "PNG" and b"IEND" in content[-1024:]:
        with _damage():
            file.verify()  # the checksums of its parts
        if header.width * header.height < _DEFLATED * len(content):
            return header
        file = _open(content)  # `verify` ends with its use
    _pixels(file, content)
    return header


def size(content: bytes) -> tuple[int, int]:
    """(height, width) that a header claims; (0, 0) where it cannot be read."""
    try:
        return _open(content).size[::-1]
    except errors.InputError:
        return 0, 0


def orientation(content: bytes) -> int:
    """How a file is turned, 1 to 8.

    Raises:
      InputError: as `decode`.
    """
    return _orientation(_open(content))


def check_size(content: bytes) -> None:
    """Raises an InputError for an encoded image that claims too many pixels."""
    if content.startswith(b"\x89PNG") and len(content) > 24:  # small images are PNG: no detour
        width, height = struct.unpack(">II", content[16:24])
        if width * height > MAX_PIXELS:
            raise _TooLargeError(_too_large(f"{width} x {height}"))
        return
    try:
        _open(content)
    except UnknownError:
        pass  # whoever decodes it may know more formats, or more of a damaged one
    except errors.InputError as error:
        if isinstance(error, _TooLargeError):
            raise


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns and mirrors [H, W, channels] as an EXIF orientation, 1 to 8, asks for."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


class _TooLargeError(errors.InputError):
    """A header claims too many pixels."""


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """Whatever Pillow raises for a damaged file, and it is of many kinds, as an InputError."""
    try:
        yield
    except errors.InputError:
        raise
    except Exception as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise errors.InputError(f"it is damaged ({reason})") from error


def _open(content: bytes) -> PIL.Image.Image:
    """The header is read; nothing is decoded."""
    try:
        file = PIL.Image.open(io.BytesIO(content), formats=_formats())
    except PIL.Image.DecompressionBombError as error:
        raise _TooLargeError(_too_large(str(error))) from error
    except PIL.UnidentifiedImageError as error:
        if content[4:8] == b"ftyp" and content[8:12] in _HEIF and "HEIF" not in _formats():
            raise errors.InputError(
                "it is HEIC, which pillow-heif reads: run `pip install 'rrd_jax[heic]'`"
            ) from error
        raise UnknownError("it is no image, or of a format that is not read") from error
    except Exception as error:  # of Pillow, for damaged files
        raise errors.InputError(f"it is damaged ({error or type(error).__name__})") from error
    width, height = file.size
    if width * height > MAX_PIXELS:  # of users who have raised Pillow's limit
        raise _TooLargeError(_too_large(f"{width} x {height}"))
    if not (width and height):
        raise errors.InputError(f"it is damaged (a size of {width} x {height})")
    return file


def _too_large(text: str) -> str:
    number = text.removeprefix("Image size (").split(" pixels")[0]
    return f"its header claims {number} pixels, more than the limit of {MAX_PIXELS:,}"


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of _FORMATS that are installed."""
    PIL.Image.init()
    with contextlib.suppress(ImportError):  # an extra
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in _FORMATS if name in PIL.Image.OPEN)


def _orientation(file: PIL.Image.Image) -> int:
    try:
        return int(file.getexif().get(0x0112, 1))
    except Exception:  # of Pillow, for damaged metadata, which browsers pass over too
        return 1


def _pixels(file: PIL.Image.Image, content: bytes) -> np.ndarray:
    try:
        file.load()
    except Exception:
        pixels = _by_opencv(content) if file.format == "TIFF" else None
        if pixels is not None:
            return pixels
        with _damage():
            raise
    grey16 = file.mode == "I" and file.format in ("PNG", "PPM")
    if file.mode.startswith("I;16") or grey16:
        grey = (np.asarray(file) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if file.mode in ("I", "F"):
        raise errors.InputError("it has pixels of 32 bits: convert it to 8 or 16")
    with _damage():
        if file.mode in ("La", "RGBa"):  # transparency that is multiplied in
            file = file.convert("LA" if file.mode == "La" else "RGBA")
        return np.array(file.convert("RGB"))


def _by_opencv(content: bytes) -> np.ndarray | None:
    """A TIFF of a kind that Pillow does not know, turned as it says."""
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None
