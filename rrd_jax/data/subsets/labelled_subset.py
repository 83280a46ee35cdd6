"""A few images with labels beside those of a run, by which its embeddings are judged."""

import dataclasses
import os

import numpy as np

from rrd_jax import errors
from rrd_jax.data.dataset import Dataset, load
from rrd_jax.data.feeds import feed
from rrd_jax.data.source import Source
from rrd_jax.data.subsets import degraded, stratified

_SEED = 0  # of the choice of images, so that each run is judged by the same ones


def open_few(where: str, per_class: int, source: Source, like: Dataset) -> Dataset:
    """Opens them, to be seen as the test images of a run are.

    The splits are train and test, or validation where there is no such test; those of the run where
    it is the run's own data set. Of folders of classes alone a tenth is split test, by a hash of
    names.

    Args:
      where: a folder with a folder of images for each class, or any name of a data set.
      per_class: images of each class in split train; 0 for all.
      source: of the run, for the size and the way of its images.
      like: the run's data, for their channels.

    Raises:
      InputError: there is nothing like it, there are no labels, one class, or no test images.
    """
    try:
        found = _opened(_source(where, source))
    except errors.InputError as error:
        raise errors.InputError(f"eval.labelled is '{where}': {error}") from error
    channels, stored = like.image_shape[-1], found.image_shape[-1]
    summary = found.summary
    if channels != stored:
        made = "become grey" if channels == 1 else "get the same values in each channel"
        text = f"its images have {stored} channels and the run's {channels}: they {made}"
        summary = dataclasses.replace(summary, warnings=(*summary.warnings, text))
    train, test = (
        dataclasses.replace(split, channels=channels) for split in (found.train, found.test)
    )
    train = _some_of_each_class(train, per_class, found.num_classes)
    shape = (*found.image_shape[:2], channels)
    return dataclasses.replace(found, image_shape=shape, train=train, test=test, summary=summary)


def about(few: Dataset) -> str:
    """What there is, in a line."""
    return (
        f"eval.labelled: {len(few.train):,} images of {few.num_classes:,} classes, and"
        f" {len(few.test):,} test images, of {few.version}"
    )


def _source(where: str, source: Source) -> Source:
    """How they are read: all of them, with their labels, in the form of a run's images."""
    plain = dataclasses.replace(
        source,
        mock_examples=0,
        per_class=0,
        share=1.0,
        imbalance=1.0,
        label_noise=0.0,
        use_labels=True,
        max_images=None,
    )
    folder = os.path.expanduser(where)
    if where == source.name and not os.path.isdir(folder):
        return plain
    splits = {"train_split": "train", "test_split": "test", "options": (), "class_names": ""}
    if os.path.isdir(folder):
        return dataclasses.replace(plain, name="image_folder", manual_dir=folder, **splits)
    if where.startswith((".", "~", os.sep)) or where.endswith(os.sep):
        kind = "a file, and hf:PATH names one of Parquet" if os.path.exists(folder) else "not there"
        raise errors.InputError(
            f"that is {kind}; name a folder that holds a folder of images for each class, or train"
            " and test with such folders, or a data set"
        )
    return dataclasses.replace(plain, name=where, manual_dir="", **splits)


def _opened(source: Source) -> Dataset:
    """The data set, with split validation in place of test where that is not there, or bare."""
    try:
        return load(source)
    except errors.InputError:
        if source.test_split == "test":
            with_validation = dataclasses.replace(source, test_split="validation")
            try:
                return load(with_validation)
            except errors.InputError:
                pass  # the first one says what is wrong
        raise


def _some_of_each_class(
    split: feed.Resident | feed.Streamed, most: int, num_classes: int
) -> feed.Resident | feed.Streamed:
    if not most:
        return split
    labels = degraded.labels_of(split.examples)
    places = stratified.of_each_class(labels, np.full(num_classes, most), _SEED)
    return feed.some(split, places)
