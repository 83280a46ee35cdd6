"""JPEGs of which no more is decoded than the part that is asked for, by nvImageCodec on the CPU."""

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
# Parts of fewer rows or columns than a block of chroma may differ from those of the whole image at
# their edges (libjpeg-turbo does not smooth so few columns), and are decoded as fast as a whole.
_LEAST = 32
_local = threading.local()


class Undecoded(Exception):
    """A part that cannot be decoded, or not exactly; the whole image may be."""


class Jpeg:
    """An encoded JPEG as an array [H, W, 3] uint8, of which parts can be taken.

    `jpeg[top:bottom, left:right]` has the pixels that `transforms.decode` has there.

    Attributes:
      shape: (H, W, 3), as the image is seen.
    """

    def __init__(self, content: bytes, header: jpeg_header.Header):
        self._content, self._header = content, header
        self._turned = header.orientation in (5, 6, 7, 8)
        size = (header.height, header.width)
        self.shape = (*(size[::-1] if self._turned else size), 3)

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        (top, bottom), (left, right) = ((int(s.start), int(s.stop)) for s in part)
        if min(bottom - top, right - left) < _LEAST:
            raise Undecoded
        rows, columns = self._stored(top, bottom, left, right)
        stored = _decode(self._content, self._header, rows, columns)
        if self._header.orientation == 1:
            return stored
        return decoding.upright(stored, self._header.orientation)

    def _stored(self, top: int, bottom: int, left: int, right: int) -> tuple[slice, slice]:
        """Returns the place of a part in the stored image, the inverse of `decoding.upright`."""
        height, width, _ = self.shape
        if self._header.orientation in (2, 3, 6, 7):
            left, right = width - right, width - left
        if self._header.orientation in (3, 4, 7, 8):
            top, bottom = height - bottom, height - top
        rows, columns = slice(top, bottom), slice(left, right)
        return (columns, rows) if self._turned else (rows, columns)


def opened(image: Any, channels: int) -> Jpeg | None:
    """An encoded image of whose parts pixels are known to be right; None for any other.

    Args:
      image: bytes, or an array.
      channels: that are wanted.
    """
    if channels != 3 or not isinstance(image, bytes):
        return None
    header = jpeg_header.header(image)
    return None if header is None else Jpeg(image, header)


def is_installed() -> bool:
    """Whether there is what decodes parts."""
    with contextlib.suppress(ImportError):  # there may be another `nvidia`, or none
        return importlib.util.find_spec(_PACKAGE) is not None
    return False


def check_usable() -> None:
    """Raises an InputError where parts cannot be decoded."""
    if not is_installed():
        raise errors.InputError(
            "data.decoder is nvimgcodec, which is not installed: run `pip install"
            " 'rrd_jax[nvimgcodec]'`, or take data.decoder=cv2"
        )
    _module()


def _decode(content: bytes, header: jpeg_header.Header, rows: slice, columns: slice) -> np.ndarray:
    codec, decoder, parameters = _decoder()
    try:
        stream = codec.CodeStream(content)
        if (stream.height, stream.width) != (header.height, header.width):
            raise Undecoded
        region = codec.Region(rows.start, columns.start, rows.stop, columns.stop)
        pixels = decoder.decode(stream.get_sub_code_stream(region=region), params=parameters)
    except RuntimeError as error:  # of a header that it does not understand
        raise Undecoded from error
    if pixels is None:
        raise Undecoded
    return np.asarray(pixels)


def _decoder() -> tuple[Any, Any, Any]:
    """The module, and a decoder of this thread, which decodes in one thread of its own."""
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
    """The module, with libjpeg-turbo alone: its other parts look for a GPU, and say so."""
    with _libjpeg_turbo_alone():
        try:
            codec = importlib.import_module(_PACKAGE)
            codec.Decoder(device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY)  # loads the parts
        except Exception as error:  # ImportError of a library; RuntimeError of its own
            reason = str(error).split("\n")[0]
            raise errors.InputError(
                f"nvImageCodec cannot be used ({reason}): take data.decoder=cv2"
            ) from error
    return codec


@contextlib.contextmanager
def _libjpeg_turbo_alone() -> Iterator[None]:
    """While it lasts, a first import finds one part, and afterwards nothing is said on stderr."""
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
