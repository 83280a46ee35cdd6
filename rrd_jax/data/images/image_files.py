"""Files that may be images, recognized by their names and first bytes, and read without waiting."""

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
# Negatives of cameras: TIFF by their content, but the first image in them is a thumbnail.
_RAW = (".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw")
_BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *(b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51", b"qoif"),
)
_WORDS = (b"BM", *(b"P%d" % i for i in range(1, 8)))  # texts begin so too
_MAX_BYTES = 2**30  # of a file that is read as one image


def is_named_as_image(path: str) -> bool:
    """Returns True if the suffix of a path is an image's."""
    return _suffix(path) in _SUFFIXES


def is_meant_as_image(path: str) -> bool:
    """Returns True if a file is an image by its name, or otherwise by its first bytes."""
    if _suffix(path) in _SUFFIXES + _RAW:
        return True
    try:
        with _open(path) as file:
            return _begins_as_image(file.read(32) or b"")
    except OSError:
        return False


def read(path: str) -> bytes:
    """Returns the content of a file that can be an image.

    Raises:
      OSError: it cannot be read.
      UnknownError: it is something else.
      InputError: it is empty, a raw photograph, or larger than 1 GB.
    """
    suffix = _suffix(path)
    if suffix in _RAW:
        raise errors.InputError(f"{suffix} is a camera's raw file: convert it to JPEG or PNG")
    is_named = suffix in _SUFFIXES
    with _open(path) as file:
        head = file.read(32) or b""
        if not head and is_named:
            raise errors.InputError("it is empty")
        if not (_begins_as_image(head) or (is_named and head.startswith(_WORDS))):
            raise decoding.UnknownError("it is no image, or of a format that is not read")
        if os.fstat(file.fileno()).st_size > _MAX_BYTES:
            raise errors.InputError("it has more than 1 GB")
        return _read_rest(file, head)


def read_with_state(path: str) -> tuple[bytes, tuple[int, int, int]]:
    """Returns the content of a regular file; its size in bytes, and its times in nanoseconds.

    The times are of the last change of the content, and of the content, name or rights.

    Raises:
      OSError: it cannot be read, or is no regular file.
    """
    with _open(path) as file:
        state = os.fstat(file.fileno())
        return _read_rest(file, b""), (state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def reason(error: OSError) -> str:
    """Returns the reason of an error without its path, such as "Permission denied"."""
    return error.strerror or str(error)


def _open(path: str) -> io.RawIOBase:
    # A pipe without a writer must not block.
    return open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)


def _begins_as_image(head: bytes) -> bool:
    return head.startswith(_BEGINNINGS) or head[4:8] == b"ftyp"


def _read_rest(file: io.RawIOBase, head: bytes) -> bytes:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise OSError("no regular file")
    return head + (file.readall() or b"")


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
