"""Recognition of image files by suffix and first bytes, and reading that never blocks."""

import io
import os
import stat

from rrd_jax import errors
from rrd_jax.data.images import decoding

_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff"),
    *(".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".qoi", ".avif", ".heic"),
    *(".heif", ".hif", ".svg", ".psd", ".ico", ".tga", ".jxl", ".exr", ".hdr", ".pcx"),
)
# Raw files of cameras. Most are TIFF by content, but their first image is a thumbnail.
_RAW = (".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw")
_BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *(b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51", b"qoif"),
)
# First bytes of BMP and PPM files, with which text files may start as well.
_TEXT_LIKE_BEGINNINGS = (b"BM", *(b"P%d" % i for i in range(1, 8)))
# Largest size of an image file.
_MAX_BYTES = 2**30


def is_named_as_image(path: str) -> bool:
    """Returns True if a path has the suffix of an image format."""
    return _suffix(path) in _SUFFIXES


def is_meant_as_image(path: str) -> bool:
    """Returns True if a file is an image by its suffix or by its first bytes."""
    if _suffix(path) in _SUFFIXES + _RAW:
        return True
    try:
        with _open(path) as file:
            return _begins_as_image(file.read(32) or b"")
    except OSError:
        return False


def read(path: str) -> bytes:
    """Returns the content of a file that may be an image.

    Raises:
      OSError: the file cannot be read.
      UnknownError: the file is not an image.
      InputError: the file is empty, a camera's raw file, or larger than 1 GB.
    """
    suffix = _suffix(path)
    if suffix in _RAW:
        raise errors.InputError(f"raw camera file ({suffix}); convert it to JPEG or PNG")
    is_named = suffix in _SUFFIXES
    with _open(path) as file:
        head = file.read(32) or b""
        if not head and is_named:
            raise errors.InputError("empty file")
        if not (_begins_as_image(head) or (is_named and head.startswith(_TEXT_LIKE_BEGINNINGS))):
            raise decoding.UnknownError("not an image, or an unsupported format")
        if os.fstat(file.fileno()).st_size > _MAX_BYTES:
            raise errors.InputError("file larger than 1 GB")
        return _read_rest(file, head)


def read_with_state(path: str) -> tuple[bytes, tuple[int, int, int]]:
    """Returns the content of a regular file, and its size and times.

    The size is in bytes. The times are those of the last change of the content, and of the last
    change of content, name or permissions, in nanoseconds.

    Raises:
      OSError: the file cannot be read, or is not a regular file.
    """
    with _open(path) as file:
        state = os.fstat(file.fileno())
        return _read_rest(file, b""), (state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def reason(error: OSError) -> str:
    """Returns the reason for an error without the path, such as "Permission denied"."""
    return error.strerror or str(error)


def _open(path: str) -> io.RawIOBase:
    # With O_NONBLOCK, opening a pipe without a writer returns immediately.
    return open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)


def _begins_as_image(head: bytes) -> bool:
    return head.startswith(_BEGINNINGS) or head[4:8] == b"ftyp"


def _read_rest(file: io.RawIOBase, head: bytes) -> bytes:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise OSError("not a regular file")
    return head + (file.readall() or b"")


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
