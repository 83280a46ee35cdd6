"""Opens a few images with labels, separate from a run's data, by which embeddings are judged."""

import dataclasses
import os

import numpy as np

from rrd_jax import errors
from rrd_jax.data.dataset import Dataset, load
from rrd_jax.data.feeds import feed
from rrd_jax.data.source import Source
from rrd_jax.data.subsets import degraded, stratified

_SEED = 0  # of the choice of images: each run is judged by the same ones


def open_labelled_subset(where: str, per_class: int, source: Source, like: Dataset) -> Dataset:
    """Opens labelled images in the form of a run's test images.

    The splits are train and test, or validation if there is no test; those of the run if it is the
    run's own data set. Of folders of classes alone a tenth is split test, by a hash of names.

    Args:
      where: a folder with a folder of images for each class, or any name of a data set.
      per_class: images of each class in split train; 0 for all.
      source: the run's source, for the size and form of its images.
      like: the run's data, for their channels.

    Raises:
      InputError: there is no such set, or it has no labels, one class, or no test images.
    """
    try:
        dataset = _load(_source(where, source))
    except errors.InputError as error:
        raise errors.InputError(f"eval.labelled is '{where}': {error}") from error
    channels, stored, summary = like.image_shape[-1], dataset.image_shape[-1], dataset.summary
    if channels != stored:
        change = "become grey" if channels == 1 else "get the same values in each channel"
        text = f"its images have {stored} channels and the run's {channels}: they {change}"
        summary = dataclasses.replace(summary, warnings=(*summary.warnings, text))
    train, test = (
        dataclasses.replace(split, channels=channels) for split in (dataset.train, dataset.test)
    )
    if per_class:
        labels = degraded.labels_of(train.examples)
        counts = np.full(dataset.num_classes, per_class)
        train = feed.some(train, stratified.of_each_class(labels, counts, _SEED))
    shape = (*dataset.image_shape[:2], channels)
    return dataclasses.replace(dataset, image_shape=shape, train=train, test=test, summary=summary)


def describe(subset: Dataset) -> str:
    """Returns a line about the labelled images."""
    return (
        f"eval.labelled: {len(subset.train):,} images of {subset.num_classes:,} classes, and"
        f" {len(subset.test):,} test images, of {subset.version}"
    )


def _source(where: str, source: Source) -> Source:
    """Returns the source of the images: all of them, with labels, in the form of a run's images."""
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


def _load(source: Source) -> Dataset:
    """Loads a data set; if it has no split test, with split validation in its place."""
    try:
        return load(source)
    except errors.InputError as first:
        if source.test_split != "test":
            raise
        try:
            return load(dataclasses.replace(source, test_split="validation"))
        except errors.InputError:
            raise first from None
