"""Opens labeled images, separate from a run's data, for the evaluation of embeddings."""

import dataclasses
import os

import numpy as np

from rrd_jax import errors, user_paths
from rrd_jax.data.dataset import Dataset, load
from rrd_jax.data.feeds import feed
from rrd_jax.data.source import Source
from rrd_jax.data.subsets import degraded, stratified

# The selection of images is the same for every run.
_SEED = 0


def open_labelled_subset(
    location: str, per_class: int, source: Source, run_data: Dataset
) -> Dataset:
    """Opens labeled images, preprocessed like a run's test images.

    The splits are train and test, or validation without a split test. For the run's own data set,
    the splits are those of the run. In a folder that holds only classes, split test is a tenth of
    the images by a hash of their names.

    Args:
      location: a folder with one folder of images per class, or the name of a data set.
      per_class: images per class in split train; 0 for all.
      source: the run's source, which defines the preprocessing.
      run_data: the run's data set, which defines the number of channels.

    Raises:
      InputError: the data set does not exist, or has no labels, only one class or no test images.
    """
    try:
        dataset = _load(_source(location, source))
    except errors.InputError as error:
        raise errors.InputError(f"eval.labelled is '{location}': {error}") from error
    channels, stored, summary = run_data.image_shape[-1], dataset.image_shape[-1], dataset.summary
    if channels != stored:
        change = "to grayscale" if channels == 1 else "by repeating the channel"
        text = (
            f"eval.labelled has images of {stored} channels, the run of {channels}: images are"
            f" converted {change}"
        )
        summary = dataclasses.replace(summary, warnings=(*summary.warnings, text))
    train, test = (
        dataclasses.replace(split, channels=channels) for split in (dataset.train, dataset.test)
    )
    if per_class:
        labels = degraded.labels_of(train.examples)
        counts = np.full(dataset.num_classes, per_class)
        train = feed.select(train, stratified.draw_per_class(labels, counts, _SEED))
    shape = (*dataset.image_shape[:2], channels)
    return dataclasses.replace(dataset, image_shape=shape, train=train, test=test, summary=summary)


def describe(subset: Dataset) -> str:
    """Returns a log line about the labeled images."""
    return (
        f"eval.labelled: {len(subset.train):,} images of {subset.num_classes:,} classes,"
        f" {len(subset.test):,} test images, from {subset.display_name}"
    )


def _source(location: str, source: Source) -> Source:
    """Returns a source of all images with labels, preprocessed like a run's images."""
    full_source = dataclasses.replace(
        source,
        mock_examples=0,
        val_split=0.0,
        per_class=0,
        share=1.0,
        imbalance=1.0,
        label_noise=0.0,
        use_labels=True,
        max_images=None,
    )
    folder = user_paths.expanded(location)
    if location == source.name and not os.path.isdir(folder):
        return full_source
    splits = {"train_split": "train", "test_split": "test", "options": (), "class_names": ""}
    if os.path.isdir(folder):
        return dataclasses.replace(full_source, name="image_folder", manual_dir=folder, **splits)
    if location.startswith((".", "~", os.sep)) or location.endswith(os.sep):
        problem = "the folder does not exist"
        if os.path.exists(folder):
            problem = "the path is a file, not a folder; for a Parquet file, write hf:PATH"
        raise errors.InputError(
            f"{problem}; name a data set, or a folder that holds one folder of images per class, or"
            " train and test with such folders"
        )
    return dataclasses.replace(full_source, name=location, manual_dir="", **splits)


def _load(source: Source) -> Dataset:
    """Loads a data set, with split validation if split test does not exist."""
    try:
        return load(source)
    except errors.InputError as first:
        if source.test_split != "test":
            raise
        try:
            return load(dataclasses.replace(source, test_split="validation"))
        except errors.InputError:
            raise first from None
