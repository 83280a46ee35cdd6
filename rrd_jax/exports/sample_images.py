"""Images on which exported files are compared with the network."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rrd_jax import data, errors
from rrd_jax.data.folder import file_listing
from rrd_jax.data.images import reader
from rrd_jax.data.model_info import ModelInfo, Preprocessing
from rrd_jax.data.source import Source
from rrd_jax.teacher import class_matching
from rrd_jax.terminal import console

_MOST_RANDOM = 100  # random images


class Images(NamedTuple):
    """Images of a network's size.

    Attributes:
      images: [N, H, W, channels] uint8.
      labels: [N]; None if unknown.
      what: a description, such as "test images".
      is_real: False for random images.
    """

    images: np.ndarray
    labels: np.ndarray | None
    what: str
    is_real: bool = True


def load(about: ModelInfo, source: Source | None, given: Any, most: int) -> Images:
    """Loads the images to compare exported files on.

    Args:
      about: the network.
      source: of its test split; None if unknown.
      given: other images: a folder; [N, H, W, channels] uint8 of the network's size; or a pair of
        these and labels [N]. None for the test split.
      most: largest number of images.

    Returns:
      The images; random ones, with a note, if there are no test images.

    Raises:
      InputError: there are no images of the network's size in `given`.
    """
    form = about.preprocessing
    if isinstance(given, str | os.PathLike):
        return from_folder(pathlib.Path(given), form, most)
    if given is not None:
        return from_arrays(given, form, most)
    try:
        if source is None or not source.name:
            raise errors.InputError("it is not known what it was tested on")
        dataset = data.load(source)
        if dataset.image_shape != form.image_shape:
            raise errors.InputError(f"its test split has images of {dataset.image_shape}")
        images = from_test_split(dataset, most)
        known = None if images.labels is None else _labels(images.labels, dataset, about)
        return images._replace(labels=known)
    except errors.InputError as error:
        console.note(
            f"there are no test images ({error}): files are compared on random ones, which show"
            " less; pass others with --images=FOLDER"
        )
    return random(form, min(most, _MOST_RANDOM))


def _labels(labels: np.ndarray, dataset: data.Dataset, about: ModelInfo) -> np.ndarray | None:
    """Returns labels in the network's class order; None if the classes cannot be matched."""
    theirs, ours = (
        (about.class_names, about.num_classes),
        (dataset.class_names, dataset.num_classes),
    )
    found = class_matching.match(*theirs, *ours)
    if found.order is not None:
        return np.asarray(found.order)[labels]
    return labels if found.compares else None


def from_arrays(given: Any, form: Preprocessing, most: int) -> Images:
    """Takes up to `most` of given images.

    Raises:
      InputError: their shape or type is not the network's.
    """
    images, labels = given if isinstance(given, tuple | list) and len(given) == 2 else (given, None)
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != form.image_shape or not len(images):
        raise errors.InputError(
            f"images are {images.dtype} of shape {images.shape}, but must be uint8 [N,"
            f" {', '.join(map(str, form.image_shape))}]"
        )
    if labels is None:
        return Images(images[:most], None, "images")
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise errors.InputError(
            f"labels are {labels.dtype} of shape {labels.shape}, but must be whole numbers, one for"
            f" each of {len(images)} images"
        )
    return Images(images[:most], labels[:most], "images")


def from_test_split(dataset: data.Dataset, most: int) -> Images:
    """Takes up to `most` test images at even intervals, as the split may be sorted by class."""
    examples = dataset.test.examples
    places = np.unique(np.linspace(0, len(examples) - 1, min(most, len(examples))).astype(int))
    split = dataclasses.replace(dataset.test, examples=_Picked(examples, places))
    images, labels = whole(split)
    return Images(images, labels if dataset.labelled else None, "test images")


def whole(split: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images and labels of a split."""
    if split.on_device:
        return split.images, split.labels
    batches = list(split.test_batches(min(100, len(split))))
    images, labels = (np.concatenate([b[name] for b in batches]) for name in ("image", "label"))
    return images[: len(split)], labels[: len(split)]


def from_folder(folder: pathlib.Path, form: Preprocessing, most: int) -> Images:
    """Reads up to `most` of the images in a folder and its subfolders, skipping unreadable ones.

    Raises:
      InputError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise errors.InputError(f"{folder} is no folder; wanted is one with images")
    names = file_listing.files([str(folder)])
    places = np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).astype(int))
    found = reader.read_all([names[place] for place in places], form, ahead=64)
    images = [image for _, image in found if isinstance(image, np.ndarray)]
    if not images:
        raise errors.InputError(f"{folder} holds no images that can be read")
    return Images(np.stack(images), None, f"images of {folder}")


def random(form: Preprocessing, most: int) -> Images:
    """Returns random images."""
    shape = (most, *form.image_shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return Images(pixels, None, "random images", is_real=False)


class _Picked(Sequence):
    """A subset of examples, by index."""

    def __init__(self, examples: Any, places: Sequence[int]):
        self._examples, self._places = examples, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        return self._examples[int(self._places[index])]
