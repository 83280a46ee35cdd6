"""Reads images from files, encoded bytes, PIL images or arrays, preprocessed as at test time."""

import collections
import concurrent.futures
import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rrd_jax import errors
from rrd_jax.data.images import decoding, example_forms, image_files, transforms
from rrd_jax.data.model_info import Preprocessing


def read(image: Any, preprocessing: Preprocessing) -> np.ndarray:
    """Returns an image, uint8 [size, size, channels], scaled and cropped like a test image.

    Args:
      image: path of a file, encoded bytes, a PIL image, or an array [H, W], [H, W, 1] or
        [H, W, 3] of uint8 or of floats in [0, 1].
      preprocessing: size and channels of the network's images.

    Raises:
      InputError: the image cannot be read, or is not an image.
    """
    pixels = _pixels(image, preprocessing.channels, preprocessing.background)
    return transforms.evaluation_view(pixels, preprocessing.image_size, preprocessing.resize)


def read_all(
    images: Iterable[Any], preprocessing: Preprocessing, prefetch: int
) -> Iterator[tuple[Any, np.ndarray | errors.InputError]]:
    """Yields each image with the result or the InputError of `read`, in order.

    Threads read the images ahead.

    Args:
      images: images as for `read`.
      preprocessing: size and channels of the network's images.
      prefetch: largest number of images that are read ahead.
    """

    def load(image: Any) -> np.ndarray | errors.InputError:
        try:
            return read(image, preprocessing)
        except errors.InputError as error:
            return error

    threads = min(16, 2 * (os.cpu_count() or 1))
    pending: collections.deque = collections.deque()
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(threads))
        stack.callback(lambda: [future.cancel() for _, future in pending])
        for image in images:
            pending.append((image, pool.submit(load, image)))
            if len(pending) >= prefetch:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()


def _pixels(image: Any, channels: int, background: str) -> np.ndarray:
    """Returns a decoded image, uint8 [H, W, channels], in its original size."""
    if isinstance(image, str | os.PathLike):
        try:
            image = image_files.read(os.fspath(image))
        # Python raises a ValueError for a path with a null byte.
        except (OSError, ValueError) as error:
            if isinstance(error, errors.InputError):
                raise
            reason = image_files.reason(error) if isinstance(error, OSError) else str(error)
            raise errors.InputError(f"cannot be read ({reason})") from error
    else:
        image = _conformed(image, background)
    if isinstance(image, bytes):
        return decoding.decode_whole(image, channels, background)
    if image.shape[-1] == channels:
        return image
    return decoding.to_grayscale(image) if channels == 1 else np.repeat(image, channels, axis=-1)


def _conformed(image: Any, background: str) -> bytes | np.ndarray:
    try:
        return example_forms.pixels(image, background)
    except errors.InputError as error:
        if example_forms.EXPECTED_FORM not in str(error):
            raise
        raise errors.InputError(
            f"the image is {example_forms.describe(image)}, but must be the path of a file, encoded"
            " bytes, a PIL image, or an array [H, W, 1 or 3] of uint8"
        ) from error
