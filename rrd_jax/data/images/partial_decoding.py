"""Decodes rectangular regions of JPEGs without the rest, by nvImageCodec on the CPU."""

import contextlib
import functools
import importlib
import importlib.util
import os
import pathlib
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from rrd_jax import errors
from rrd_jax.data.images import decoding, jpeg_header

_PACKAGE = "nvidia.nvimgcodec"
# The whole image is decoded for smaller regions. Their edges may differ from the whole image,
# because libjpeg-turbo does not smooth chroma in so few columns, and they save no time.
_MIN_SIZE = 32
_local = threading.local()


class Undecoded(Exception):
    """The error for a region that cannot be decoded exactly; decode the whole image instead."""


class Jpeg:
    """An encoded JPEG that is indexed like an array uint8 [H, W, 3].

    `jpeg[top:bottom, left:right]` equals the same region of the result of `transforms.decode`.

    Attributes:
      shape: (H, W, 3) in the upright orientation.
    """

    def __init__(self, content: bytes, header: jpeg_header.JpegHeader):
        self._content, self._header = content, header
        self._is_transposed = header.orientation in (5, 6, 7, 8)
        size = (header.height, header.width)
        self.shape = (*(size[::-1] if self._is_transposed else size), 3)

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        (top, bottom), (left, right) = ((int(s.start), int(s.stop)) for s in part)
        if min(bottom - top, right - left) < _MIN_SIZE:
            raise Undecoded
        rows, columns = self._stored(top, bottom, left, right)
        stored = _decode(self._content, self._header, rows, columns)
        if self._header.orientation == 1:
            return stored
        return decoding.upright(stored, self._header.orientation)

    def _stored(self, top: int, bottom: int, left: int, right: int) -> tuple[slice, slice]:
        """Returns the rows and columns of a region in the stored image, inverting `upright`."""
        height, width, _ = self.shape
        if self._header.orientation in (2, 3, 6, 7):
            left, right = width - right, width - left
        if self._header.orientation in (3, 4, 7, 8):
            top, bottom = height - bottom, height - top
        rows, columns = slice(top, bottom), slice(left, right)
        return (columns, rows) if self._is_transposed else (rows, columns)


def open_jpeg(image: Any, channels: int) -> Jpeg | None:
    """Returns an image whose regions can be decoded exactly; None for any other image.

    Args:
      image: encoded bytes or an array.
      channels: number of channels to decode to.
    """
    if channels != 3 or not isinstance(image, bytes):
        return None
    header = jpeg_header.read(image)
    return None if header is None else Jpeg(image, header)


def is_installed() -> bool:
    """Returns True if nvImageCodec is installed."""
    # The parent package `nvidia` may be missing or unrelated.
    with contextlib.suppress(ImportError):
        return importlib.util.find_spec(_PACKAGE) is not None
    return False


def check_usable() -> None:
    """Raises an InputError if nvImageCodec cannot be used."""
    if not is_installed():
        raise errors.InputError(
            "data.decoder is nvimgcodec, which is not installed; run `pip install"
            " 'rrd_jax[nvimgcodec]'`, or set data.decoder=cv2"
        )
    _module()


def _decode(
    content: bytes, header: jpeg_header.JpegHeader, rows: slice, columns: slice
) -> np.ndarray:
    codec, decoder, parameters = _decoder()
    try:
        stream = codec.CodeStream(content)
        if (stream.height, stream.width) != (header.height, header.width):
            raise Undecoded
        region = codec.Region(rows.start, columns.start, rows.stop, columns.stop)
        pixels = decoder.decode(stream.get_sub_code_stream(region=region), params=parameters)
    # The codec raises a RuntimeError for unsupported headers.
    except RuntimeError as error:
        raise Undecoded from error
    if pixels is None:
        raise Undecoded
    return np.asarray(pixels)


def _decoder() -> tuple[Any, Any, Any]:
    """Returns the module, and this thread's single-threaded decoder with its parameters."""
    codec = _module()
    if not hasattr(_local, "decoder"):
        _local.decoder = codec.Decoder(
            device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY,
            max_num_cpu_threads=1,
            backends=[codec.Backend(codec.CPU_ONLY)],
        )
        _local.parameters = codec.DecodeParams(
            apply_exif_orientation=False, color_spec=codec.ColorSpec.SRGB
        )
    return codec, _local.decoder, _local.parameters


@functools.cache
def _module() -> Any:
    """Imports nvImageCodec with libjpeg-turbo only: other extensions search for a GPU and log."""
    with _only_libjpeg_turbo():
        # The first decoder loads the extensions. Both lines raise many types of exceptions.
        try:
            codec = importlib.import_module(_PACKAGE)
            codec.Decoder(device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY)
        except Exception as error:
            reason = str(error).split("\n")[0]
            raise errors.InputError(
                f"nvImageCodec cannot be used ({reason}); set data.decoder=cv2"
            ) from error
    return codec


@contextlib.contextmanager
def _only_libjpeg_turbo() -> Iterator[None]:
    """Sets environment variables so that nvImageCodec loads one extension and logs nothing."""
    package = pathlib.Path(importlib.util.find_spec(_PACKAGE).origin).parent
    with tempfile.TemporaryDirectory() as folder:
        for part in (package / "extensions").glob("libjpeg_turbo_ext.so*"):
            os.symlink(part, os.path.join(folder, part.name))
        settings = {"NVIMGCODEC_EXTENSIONS_PATH": folder, "PYNVIMGCODEC_VERBOSITY": "0"}
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
