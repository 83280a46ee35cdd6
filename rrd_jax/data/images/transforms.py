"""Encodes, decodes, scales and crops images on the host with OpenCV.

The geometric functions also transform masks, class indices uint8 [H, W, 1]: with `is_mask`, pixels
are those of the nearest neighbor, and added pixels have no class (255). An image and its mask stay
aligned if both calls have the same sizes, and generators in the same state.
"""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from rrd_jax import errors
from rrd_jax.data.images import decoding, partial_decoding
from rrd_jax.data.mask_index import IGNORED

# Undecodable images are replaced by black ones. An error is raised when both their number and their
# share of all images reach these limits.
_MAX_FAILURES, _MAX_FAILED_SHARE = 10, 0.25
# Number of undecodable images that are reported by name.
_MAX_REPORTED = 4
# Longer images are cropped to this aspect ratio before they are scaled.
_MAX_ASPECT = 100
# Many images are decoded in parallel; further threads within each image would compete.
cv2.setNumThreads(0)


def encode_png(image: np.ndarray) -> bytes:
    """Encodes an image, uint8 [H, W, 1 or 3], as PNG; TFDS would need TensorFlow for this."""
    image = np.ascontiguousarray(image)
    if image.shape[-1] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, png = cv2.imencode(".png", image)
    return png.tobytes()


def decode(image: Any, channels: int, background: str = "white") -> np.ndarray:
    """Returns an RGB or grayscale image, uint8 [H, W, channels], from encoded bytes or an array.

    Images stored with other channels are converted; ImageNet has grayscale and CMYK files.

    Args:
      image: encoded bytes, or uint8 [H, W, 1 or 3].
      channels: 3 for RGB, 1 for grayscale.
      background: color behind transparent pixels of encoded images, see `settings.kinds.Color`.

    Raises:
      InputError: the bytes are not an image.
    """
    if isinstance(image, np.ndarray):
        return _with_channels(image, channels)
    if isinstance(image, decoding.Upright):
        return decoding.decode(image, channels, background)
    pixels = decoding.composited(image, background)
    if pixels is not None:
        return _with_channels(pixels, channels)
    color = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
    # Pixels of prepared sets stay in their stored orientation, as is common practice.
    flags = color | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = _decoded(image, flags)
    return decoded if channels == 3 else decoded[..., None]


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    if image.shape[-1] == channels:
        return image
    return decoding.to_grayscale(image) if channels == 1 else np.repeat(image, channels, axis=-1)


def stored_channels(image: bytes) -> int:
    """Returns 1 for an encoded image that is stored in grayscale, otherwise 3.

    Raises:
      InputError: the bytes are not an image.
    """
    # The error for bytes that are not an image.
    decode(image, 3)
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    # OpenCV decodes fewer formats.
    with contextlib.suppress(errors.InputError):
        return 1 if _decoded(image, flags).ndim == 2 else 3
    return 3


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


def decode_or_black(
    example: dict[str, Any], index: int, channels: int, size: int, background: str
) -> np.ndarray:
    """Returns the decoded image of an example, or a black image and a warning if it is damaged.

    A single damaged file must not end a run, and a damaged test image must still be counted. The
    arguments are those of `random_crop_or_black`.

    Raises:
      InputError: at least 10 images and more than a quarter of all images so far cannot be decoded.
    """
    _damage.tried += 1
    try:
        return decode(example["image"], channels, background)
    except errors.InputError as error:
        name = example.get("file_name", b"")
        name = name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)
        label = f"'{errors.printable(name)}' (example {index})" if name else ""
        _damage.add(label or f"example {index}", str(error))
        return np.zeros((size, size, channels), np.uint8)


def random_crop_or_black(
    example: dict[str, Any],
    index: int,
    channels: int,
    size: int,
    area: float,
    make_rng: Callable[[], np.random.Generator],
    *,
    background: str = "white",
    decode_crop_only: bool,
) -> np.ndarray:
    """Returns a random-resized crop of an example's image, or of a black image if it is damaged.

    Args:
      example: a mapping with `image` and optionally `file_name`.
      index: index of the example.
      channels: channels of the image, 1 or 3.
      size: height and width of the crop.
      area: smallest area of the crop relative to the image.
      make_rng: returns a generator in the same state at each call.
      background: color behind transparent pixels of encoded images, see `settings.kinds.Color`.
      decode_crop_only: whether only the crop of a JPEG is decoded; the pixels are equal.
    """
    part = partial_decoding.open_jpeg(example["image"], channels) if decode_crop_only else None
    if part is not None:
        with contextlib.suppress(partial_decoding.Undecoded):
            crop = random_resized_crop(make_rng(), part, size, area)
            _damage.tried += 1
            return crop
    image = decode_or_black(example, index, channels, size, background)
    return random_resized_crop(make_rng(), image, size, area)


class _Damage:
    """The undecodable images of this process, and the number of attempts."""

    def __init__(self):
        self.tried, self._failed, self._images = 0, 0, set()

    def add(self, image: str, reason: str) -> None:
        """Counts a failure, and prints a warning once per image for the first images."""
        self._failed += 1
        if self._failed >= _MAX_FAILURES and self._failed > _MAX_FAILED_SHARE * self.tried:
            raise errors.InputError(
                f"{self._failed:,} of the first {self.tried:,} images cannot be decoded, such as"
                f" {image}: {reason}; repair the images, convert them to PNG or JPEG, or remove"
                " them"
            )
        if image in self._images or len(self._images) > _MAX_REPORTED:
            return
        self._images.add(image)
        if len(self._images) > _MAX_REPORTED:
            line = "more images cannot be decoded; using black images instead"
        else:
            line = f"image {image}: {reason}; using a black image instead"
        print(f"warning: {line}", file=sys.stderr)


_damage = _Damage()


def evaluation_view(
    image: np.ndarray, size: int, resize: int | None, *, is_mask: bool = False
) -> np.ndarray:
    """Returns an image as networks receive it in tests, [size, size, channels].

    Args:
      image: [H, W, channels].
      size: height and width of the result.
      resize: shorter side before the center crop; None for `pad_or_resize`.
      is_mask: see the module's docstring.
    """
    if resize:
        return center_crop(image, size, resize, is_mask=is_mask)
    return pad_or_resize(image, size, is_mask=is_mask)


def pad_or_resize(image: np.ndarray, size: int, *, is_mask: bool = False) -> np.ndarray:
    """Fits an image to [size, size]: pads smaller images with black, scales larger ones down."""
    height, width = image.shape[:2]
    if height > size or width > size:
        return _scale(image, size, size, is_mask=is_mask)
    top, left = (size - height) // 2, (size - width) // 2
    fill = IGNORED if is_mask else 0
    padded = np.full((size, size, image.shape[2]), fill, image.dtype)
    padded[top : top + height, left : left + width] = image
    return padded


def random_resized_crop(
    rng: np.random.Generator,
    image: np.ndarray,
    size: int,
    area: float = 0.08,
    *,
    is_mask: bool = False,
) -> np.ndarray:
    """Returns a random crop, scaled to [size, size] and mirrored with probability 1/2.

    The crop covers between `area` and all of the image at an aspect ratio from 3/4 to 4/3. As in
    common ImageNet recipes, ten failed draws are followed by the largest center crop.
    """
    top, left, height, width = _random_part(rng, *image.shape[:2], area)
    part = image[top : top + height, left : left + width]
    # Area averaging takes four times as long; training needs it only at a factor of 2 or more.
    averaged = 2 * size <= min(part.shape[:2])
    scaled = _scale(part, size, size, averaged=averaged, is_mask=is_mask)
    if rng.random() >= 0.5:
        return scaled
    # The mirrored copy is contiguous: stacking arrays of negative stride takes ten times as long.
    return cv2.flip(scaled, 1).reshape(scaled.shape)


def center_crop(image: np.ndarray, size: int, resize: int, *, is_mask: bool = False) -> np.ndarray:
    """Scales the shorter side to `resize`, and returns the center crop [size, size]."""
    height, width = image.shape[:2]
    longest = _MAX_ASPECT * min(height, width)
    # A single row of pixels would need gigabytes when scaled as a whole.
    if max(height, width) > longest:
        top, left = max(0, (height - longest) // 2), max(0, (width - longest) // 2)
        image = np.ascontiguousarray(image[top : top + longest, left : left + longest])
    scaled = scale_short(image, resize, is_mask=is_mask)
    top, left = (scaled.shape[0] - size) // 2, (scaled.shape[1] - size) // 2
    return scaled[top : top + size, left : left + size]


def scale_short(image: np.ndarray, short: int, *, is_mask: bool = False) -> np.ndarray:
    """Scales the shorter side to `short`, with area averaging if the image becomes smaller."""
    height, width = image.shape[:2]
    factor = short / min(height, width)
    return _scale(image, round(height * factor), round(width * factor), is_mask=is_mask)


def _random_part(
    rng: np.random.Generator, height: int, width: int, min_area: float
) -> tuple[int, int, int, int]:
    """Draws the (top, left, height, width) of a crop with at least `min_area` of the image."""
    for _ in range(10):
        area = height * width * rng.uniform(min_area, 1.0)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < h <= height and 0 < w <= width:
            return rng.integers(height - h + 1), rng.integers(width - w + 1), h, w
    h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def _scale(
    image: np.ndarray,
    height: int,
    width: int,
    averaged: bool | None = None,
    *,
    is_mask: bool = False,
) -> np.ndarray:
    # Without averaging, a reduced image would have aliasing.
    if averaged is None:
        averaged = height < image.shape[0] or width < image.shape[1]
    method = cv2.INTER_AREA if averaged else cv2.INTER_LINEAR
    if is_mask:
        # The centers of pixels coincide with those of the image; INTER_NEAREST shifts a mask.
        method = cv2.INTER_NEAREST_EXACT
    scaled = cv2.resize(image, (width, height), interpolation=method)
    # OpenCV drops the axis of a single channel.
    return scaled.reshape(height, width, image.shape[2])
