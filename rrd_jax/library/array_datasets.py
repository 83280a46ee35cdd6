"""Data sets from arrays and other random-access sources that Python code passes."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rrd_jax import config as configs
from rrd_jax import data, errors
from rrd_jax.data.source import Source


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
    images = train[0] if isinstance(train, tuple | list) and len(train) == 2 else None
    is_array = getattr(images, "ndim", 0) == 4
    if is_array and "data.image_size" not in fields:
        config.data.image_size = max(images.shape[1:3])
    source = configs.source_of(config, recorded)
    dataset = data.from_sources(train, test, source, num_classes=num_classes)
    if "data.mean" not in fields and "data.std" not in fields:
        config.data.mean, config.data.std = _moments(dataset.train)
    return dataset


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
