"""Images on the host, by OpenCV: encoded, decoded, scaled and cropped."""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from rrd_jax import errors
from rrd_jax.data.images import decoding, partial_decoding

# Images that are taken as black: more, and of all more than this share, are no accident.
_FEW, _SHARE = 10, 0.25
_NAMED = 4  # of them
_ASPECT = 100  # of images that are scaled before their centre is cut out
cv2.setNumThreads(0)  # many images at once are decoded already: within one, threads would compete


def encode_png(image: np.ndarray) -> bytes:
    """A grey or RGB image [H, W, channels] uint8 as PNG: TFDS encodes arrays with TensorFlow."""
    image = np.ascontiguousarray(image)
    if image.shape[-1] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, png = cv2.imencode(".png", image)
    return png.tobytes()


def decode(image: Any, channels: int) -> np.ndarray:
    """[H, W, channels] uint8, RGB or grey, from an encoded image or such an array.

    What is stored with other channels (ImageNet has grey and CMYK files) is converted.

    Raises:
      InputError: the bytes are no image.
    """
    if isinstance(image, np.ndarray):
        return _with_channels(image, channels)
    if isinstance(image, decoding.Upright):
        return decoding.decode(image, channels)
    colour = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
    flags = colour | cv2.IMREAD_IGNORE_ORIENTATION  # the pixels as stored, as the field does
    decoded = _decoded(image, flags)
    return decoded if channels == 3 else decoded[..., None]


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    if image.shape[-1] == channels:
        return image
    return decoding.grey(image) if channels == 1 else np.repeat(image, channels, axis=-1)


def stored_channels(image: bytes) -> int:
    """1 for an encoded image that is stored in grey, otherwise 3.

    Raises:
      InputError: the bytes are no image.
    """
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    return 1 if _decoded(image, flags).ndim == 2 else 3


def _decoded(image: bytes, flags: int) -> np.ndarray:
    decoding.check_size(image)
    try:
        decoded = cv2.imdecode(np.frombuffer(image, np.uint8), flags) if image else None
    except cv2.error as error:
        raise errors.InputError(
            f"an image of {len(image)} bytes cannot be decoded ({error.err or error})"
        ) from error
    if decoded is None:
        raise errors.InputError(f"an image of {len(image)} bytes cannot be decoded")
    return decoded


def decode_or_black(example: dict[str, Any], index: int, channels: int, size: int) -> np.ndarray:
    """The decoded image of an example; a black one, and a line that names it, if it is damaged.

    One bad file of a million must not end a run; and in a test split it must count.

    Raises:
      InputError: so many cannot be decoded that it is no accident.
    """
    _damage.tried += 1
    try:
        return decode(example["image"], channels)
    except errors.InputError as error:
        name = example.get("file_name", b"")
        name = name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)
        named = f"'{errors.printable(name)}' (example {index})" if name else ""
        _damage.add(named or f"example {index}", str(error))
        return np.zeros((size, size, channels), np.uint8)


def random_crop_or_black(
    example: dict[str, Any],
    index: int,
    channels: int,
    size: int,
    area: float,
    make_rng: Callable[[], np.random.Generator],
    *,
    by_parts: bool,
) -> np.ndarray:
    """`random_resized_crop` of what `decode_or_black` gives for an example.

    Args:
      example: as `decode_or_black` has it, and what follows.
      index: of the example.
      channels: of the image, 1 or 3.
      size: of the crop.
      area: the smallest part of the image that it is.
      make_rng: a generator in the same state at each call.
      by_parts: whether no more of a JPEG is decoded than the crop; the pixels are the same.
    """
    part = partial_decoding.opened(example["image"], channels) if by_parts else None
    if part is not None:
        with contextlib.suppress(partial_decoding.Undecoded):
            crop = random_resized_crop(make_rng(), part, size, area)
            _damage.tried += 1
            return crop
    image = decode_or_black(example, index, channels, size)
    return random_resized_crop(make_rng(), image, size, area)


class _Damage:
    """What could not be decoded in this process, as often as it was tried."""

    def __init__(self):
        self.tried, self._failed, self._images = 0, 0, set()

    def add(self, image: str, reason: str) -> None:
        """Says so once an image, not once an epoch, and of the first images alone."""
        self._failed += 1
        if self._failed >= _FEW and self._failed > _SHARE * self.tried:
            raise errors.InputError(
                f"{self._failed:,} of the first {self.tried:,} images that are used cannot be"
                f" decoded; image {image}: {reason}. Repair them, convert them to usual PNG or"
                " JPEG, or remove them"
            )
        if image in self._images or len(self._images) > _NAMED:
            return
        self._images.add(image)
        if len(self._images) > _NAMED:
            line = "more images cannot be decoded; each is taken as black"
        else:
            line = f"image {image}: {reason}; it is taken as black"
        print(f"warning: {line}", file=sys.stderr)


_damage = _Damage()


def pad_or_resize(image: np.ndarray, size: int) -> np.ndarray:
    """To [size, size]: smaller images are centred on black, larger ones scaled down."""
    height, width = image.shape[:2]
    if height > size or width > size:
        return _scale(image, size, size)
    top, left = (size - height) // 2, (size - width) // 2
    padded = np.zeros((size, size, image.shape[2]), image.dtype)
    padded[top : top + height, left : left + width] = image
    return padded


def random_resized_crop(
    rng: np.random.Generator, image: np.ndarray, size: int, area: float = 0.08
) -> np.ndarray:
    """A random part of `area` to all of the image, aspect 3/4 to 4/3, scaled to [size, size].

    Ten tries, then the largest central part of allowed aspect, as the ImageNet recipes do. Half
    of the results are mirrored.
    """
    top, left, height, width = _random_part(rng, *image.shape[:2], area)
    part = image[top : top + height, left : left + width]
    # Area averaging costs four times as much; for training it is needed where pixels are skipped.
    scaled = _scale(part, size, size, averaged=2 * size <= min(part.shape[:2]))
    if rng.random() >= 0.5:
        return scaled
    # A contiguous mirror image: stacking views of negative stride costs ten times as much.
    return cv2.flip(scaled, 1).reshape(scaled.shape)


def center_crop(image: np.ndarray, size: int, resize: int) -> np.ndarray:
    """Scaled so that the short side is `resize`, then the central [size, size]."""
    height, width = image.shape[:2]
    longest = _ASPECT * min(height, width)
    if max(height, width) > longest:  # a line of pixels, scaled as a whole, would fill gigabytes
        top, left = max(0, (height - longest) // 2), max(0, (width - longest) // 2)
        image = np.ascontiguousarray(image[top : top + longest, left : left + longest])
    scaled = scale_short(image, resize)
    top, left = (scaled.shape[0] - size) // 2, (scaled.shape[1] - size) // 2
    return scaled[top : top + size, left : left + size]


def scale_short(image: np.ndarray, short: int) -> np.ndarray:
    """Scaled so that the short side is `short`, by the average of areas where it shrinks."""
    height, width = image.shape[:2]
    factor = short / min(height, width)
    return _scale(image, round(height * factor), round(width * factor))


def _random_part(
    rng: np.random.Generator, height: int, width: int, least: float
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random part of an image, of its area so much at least."""
    for _ in range(10):
        area = height * width * rng.uniform(least, 1.0)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < h <= height and 0 < w <= width:
            return rng.integers(height - h + 1), rng.integers(width - w + 1), h, w
    h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def _scale(image: np.ndarray, height: int, width: int, averaged: bool | None = None) -> np.ndarray:
    if averaged is None:  # where the image shrinks, or the result would alias
        averaged = height < image.shape[0] or width < image.shape[1]
    method = cv2.INTER_AREA if averaged else cv2.INTER_LINEAR
    scaled = cv2.resize(image, (width, height), interpolation=method)
    return scaled.reshape(height, width, image.shape[2])  # cv2 drops a single channel
