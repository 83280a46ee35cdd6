"""Opens images with masks, separate from a run's data, for the evaluation of patches."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from rrd_jax import errors, user_paths
from rrd_jax.data import masks
from rrd_jax.data.dataset import Dataset
from rrd_jax.data.feeds import feed
from rrd_jax.data.mask_index import IGNORED
from rrd_jax.data.masks.decoding import decode
from rrd_jax.data.masks.feed import MaskedSplit
from rrd_jax.data.source import Source
from rrd_jax.data.splits import Summary

# The selection of images is the same for every run.
_SEED = 0
# With fewer test images, a few of them determine the mean IoU.
_MIN_TEST_IMAGES = 20


@dataclasses.dataclass(frozen=True)
class MaskedSubset:
    """Images with masks, preprocessed like a run's test images.

    Attributes:
      version: name and version, or a digest of names and contents.
      train: training images.
      test: test images.
      num_classes: C.
      image_shape: (H, W, channels) of the networks' images.
      summary: lines and warnings that are logged before training.
      display_name: name for people.
    """

    version: str
    train: MaskedSplit
    test: MaskedSplit
    num_classes: int
    image_shape: tuple[int, int, int]
    summary: Summary
    display_name: str


def open_masked_subset(
    location: str, max_images: int, source: Source, run_data: Dataset
) -> MaskedSubset:
    """Opens images with masks.

    Args:
      location: a folder of images and masks, see `masks.open_folder`, or a data set of TFDS with
        masks.
      max_images: largest number of images of each split, a fixed random subset.
      source: the run's source, which defines the preprocessing.
      run_data: the run's data set, which defines the shape of images.

    Raises:
      InputError: the data set does not exist, or cannot be used.
    """
    try:
        opened = _open(location, max_images, source, run_data)
        _check_classes(opened)
    except errors.InputError as error:
        raise type(error)(f"eval.dense is '{location}': {error}") from error
    return opened


def describe(subset: MaskedSubset) -> str:
    """Returns a log line about the images."""
    return (
        f"eval.dense: {len(subset.train):,} images with masks of {subset.num_classes} classes,"
        f" {len(subset.test):,} test images, from {subset.display_name}"
    )


def _open(location: str, max_images: int, source: Source, run_data: Dataset) -> MaskedSubset:
    size, _, channels = run_data.image_shape

    def split(examples: Sequence[Any]) -> MaskedSplit:
        indices = np.random.default_rng(_SEED).permutation(len(examples))[:max_images]
        chosen = feed.Selection(examples, np.sort(indices))
        return MaskedSplit(chosen, size, channels, source.background, run_data.resize)

    folder = user_paths.expanded(location)
    if os.path.isdir(folder):
        opened = masks.open_folder(source.dir, folder)
        train, test = (opened.examples(name) for name in ("train", "test"))
        summary, count, name = opened.summary(train, test), opened.num_classes, opened.display_name
    else:
        opened = _open_by_name(location, source)
        train, test = opened.train, opened.test
        summary, name = Summary(), opened.version
        count = max(map(_largest_index, (train, test))) + 1
    if len(test) < _MIN_TEST_IMAGES:
        summary += Summary(
            warnings=(
                f"only {len(test)} test images with masks, so that the mean IoU is imprecise; add"
                " images, or folders train and test",
            )
        )
    return MaskedSubset(
        opened.version, split(train), split(test), count, run_data.image_shape, summary, name
    )


def _open_by_name(location: str, source: Source) -> Any:
    """Returns the splits of a data set of TFDS whose examples have masks."""
    if not location.strip():
        raise errors.InputError("the name is empty; name a folder of images and masks")
    if location.startswith((".", "~", os.sep)) or location.endswith(os.sep):
        problem = "the folder does not exist"
        if os.path.exists(user_paths.expanded(location)):
            problem = "the path is a file"
        raise errors.InputError(f"{problem}; name a folder of images and masks")
    other = Source(location, dir=source.dir, train_split="train", test_split="test")
    if other.kind != "tfds":
        raise errors.InputError("name a folder of images and masks, or a data set of TFDS")
    # The import needs TFDS, which folders do not.
    from rrd_jax.data.sources import prepared

    return prepared.open_masked(other)


def _largest_index(examples: Sequence[Any]) -> int:
    indices = (decode(example["mask"]) for example in examples)
    return max(int(mask[mask != IGNORED].max(initial=0)) for mask in indices)


def _check_classes(subset: MaskedSubset) -> None:
    """Raises an InputError if masks in the size of the network have no classes."""
    if subset.num_classes < 2:
        raise errors.InputError("masks have only one class, but need at least two; use other masks")
    for name, split in (("training", subset.train), ("test", subset.test)):
        if all((split.read(i)["mask"] == IGNORED).all() for i in range(len(split))):
            raise errors.InputError(f"no pixel of the {name} masks has a class; use other masks")
