"""Data sets from arrays and other random-access sources that Python code passes."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rrd_jax import config as configs
from rrd_jax import data, errors
from rrd_jax.data.images import example_forms
from rrd_jax.data.source import Source
from rrd_jax.settings import kinds
from rrd_jax.terminal import console


def open_dataset(
    train: Any, test: Any, source: Source, num_classes: int | None
) -> data.Dataset | None:
    """Returns the data set of the images that were passed; None without training images."""
    if train is None:
        if test is not None:
            raise errors.InputError("test images were passed without training images; pass train=")
        return None
    return data.from_sources(train, test, source, num_classes=num_classes)


def open_and_describe(
    config: ConfigDict,
    fields: Mapping[str, Any],
    train: Any,
    test: Any,
    num_classes: int | None,
    recorded: Mapping[str, Any] | None,
) -> data.Dataset:
    """Returns the data set of the images, and sets their size, mean and std in the config.

    `recorded` is the config that the workdir records, as for `config.parse`.
    """
    if test is None and config.data.test_split == "test":
        raise errors.InputError(
            "there are no test images; pass test=, or split the training images with"
            " fields={'data.train_split': 'train[:90%]', 'data.test_split': 'train[90%:]'}"
        )
    size = _array_size(train)
    if size and "data.image_size" not in fields:
        _set_image_size(config, size)
    source = configs.source_of(config, recorded)
    dataset = data.from_sources(train, test, source, num_classes=num_classes)
    if "data.mean" not in fields and "data.std" not in fields:
        config.data.mean, config.data.std = _moments(dataset.train)
    return dataset


def _array_size(train: Any) -> int:
    """Returns the longer side of images in an array; 0 for other sources and invalid arrays."""
    is_pair = isinstance(train, tuple | list) and len(train) == 2
    if not is_pair or getattr(train[0], "ndim", 0) < 3 or not len(train[0]):
        return 0
    try:
        return max(example_forms.pixels(train[0][0], kinds.NO_COLOR).shape[:2])
    except errors.InputError:
        # Opening the data set raises an error that names the example.
        return 0


def _set_image_size(config: ConfigDict, size: int) -> None:
    """Sets data.image_size to the size of arrays, with a note if the config has another size."""
    if config.data.image_size not in (size, configs.defaults().data.image_size):
        console.note(
            f"data.image_size is {config.data.image_size} in the config, but the images are arrays"
            f" of {size} pixels: using {size}; for {config.data.image_size}, pass"
            f" fields={{'data.image_size': {config.data.image_size}}}"
        )
    config.data.image_size = size


def _moments(split: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and std per channel, in [0, 1] units, of up to 10,000 images."""
    if split.on_device:
        pixels = split.images[:10_000]
    else:
        with contextlib.closing(split.test_batches(min(1000, len(split)))) as batches:
            pixels = next(batches)["image"]
    pixels = np.asarray(pixels, np.float64) / 255
    mean, std = (moment(pixels, axis=(0, 1, 2)) for moment in (np.mean, np.std))
    return tuple(mean.round(4).tolist()), tuple(np.maximum(std, 1e-3).round(4).tolist())
