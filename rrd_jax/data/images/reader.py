"""Any image as a network sees it at test time: files, encoded bytes, PIL images, arrays."""

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


def read(image: Any, wanted: Preprocessing) -> np.ndarray:
    """[size, size, channels] uint8, by the steps that a test split goes through.

    Args:
      image: the path of a file, encoded bytes, a PIL image, or an array [H, W], [H, W, 1] or
        [H, W, 3] of uint8 or of floats in [0, 1].
      wanted: what the network sees.

    Raises:
      InputError: it cannot be read, or is no image.
    """
    pixels = _pixels(image, wanted.channels)
    if wanted.resize:
        return transforms.center_crop(pixels, wanted.image_size, wanted.resize)
    return transforms.pad_or_resize(pixels, wanted.image_size)


def read_all(
    images: Iterable[Any], wanted: Preprocessing, ahead: int
) -> Iterator[tuple[Any, np.ndarray | errors.InputError]]:
    """Each image with what `read` returns or raises, in order, read ahead by threads.

    Args:
      images: images.
      wanted: as `read` has it.
      ahead: how many are read before they are asked for, at most.
    """

    def load(image: Any) -> np.ndarray | errors.InputError:
        try:
            return read(image, wanted)
        except errors.InputError as error:
            return error

    threads = min(16, 2 * (os.cpu_count() or 1))
    pending: collections.deque = collections.deque()
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(threads))
        stack.callback(lambda: [future.cancel() for _, future in pending])
        for image in images:
            pending.append((image, pool.submit(load, image)))
            if len(pending) >= ahead:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()


def _pixels(image: Any, channels: int) -> np.ndarray:
    """[H, W, channels] uint8."""
    if isinstance(image, str | os.PathLike):
        try:
            image = image_files.read(os.fspath(image))
        except (OSError, ValueError) as error:  # ValueError of a path with a zero in it
            if isinstance(error, errors.InputError):
                raise
            why = image_files.reason(error) if isinstance(error, OSError) else str(error)
            raise errors.InputError(f"it cannot be read ({why})") from error
    else:
        image = _conformed(image)
    if isinstance(image, bytes):
        return decoding.decode_whole(image, channels)
    if image.shape[-1] == channels:
        return image
    return decoding.grey(image) if channels == 1 else np.repeat(image, channels, axis=-1)


def _conformed(image: Any) -> bytes | np.ndarray:
    try:
        return example_forms.pixels(image)
    except errors.InputError as error:
        if example_forms.WANTED not in str(error):
            raise
        raise errors.InputError(
            f"it is {example_forms.described(image)}, but must be the path of a file, encoded"
            " bytes, a PIL image, or an array [H, W, 1 or 3] of uint8"
        ) from error
