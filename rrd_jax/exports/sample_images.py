"""The images on which exported files are compared with the network."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rrd_jax import data, errors, user_paths
from rrd_jax.data.folder import file_listing
from rrd_jax.data.images import reader
from rrd_jax.data.model_info import ModelInfo, Preprocessing
from rrd_jax.data.source import Source
from rrd_jax.teacher import class_matching
from rrd_jax.terminal import console

_MAX_RANDOM_IMAGES = 100


class Images(NamedTuple):
    """Images with the network's image size.

    Attributes:
      images: uint8 [N, H, W, channels].
      labels: [N], class ids; None if unknown.
      description: description of the images, such as "test images".
      is_real: False for random images.
    """

    images: np.ndarray
    labels: np.ndarray | None
    description: str
    is_real: bool = True


def load(about: ModelInfo, source: Source | None, override: Any, max_images: int) -> Images:
    """Loads the images on which exported files are compared with the network.

    Args:
      about: the network's description.
      source: the data set with the test split; None if unknown.
      override: images that replace the test split: a folder; uint8 [N, H, W, channels] with the
        network's image size; or a pair of such an array and labels [N]. None for the test split.
      max_images: maximum number of images.

    Returns:
      The images; random images, with a note, if no test images are available.

    Raises:
      InputError: `override` has no images of the network's size.
    """
    preprocessing = about.preprocessing
    if isinstance(override, str | os.PathLike):
        folder = user_paths.parse(override, "the folder of images")
        return from_folder(folder, preprocessing, max_images)
    if override is not None:
        return from_arrays(override, preprocessing, max_images)
    try:
        if source is None or not source.name:
            raise errors.InputError("the data set is unknown")
        dataset = data.load(source)
        if dataset.image_shape != preprocessing.image_shape:
            raise errors.InputError(f"the test split has images of shape {dataset.image_shape}")
        images = from_test_split(dataset, max_images)
        labels = None if images.labels is None else _labels(images.labels, dataset, about)
        return images._replace(labels=labels)
    except errors.InputError as error:
        console.note(
            f"no test images for '{about.model}' ({error}): verification uses random images, which"
            " is less thorough; pass test images with --images=FOLDER"
        )
    return random(preprocessing, min(max_images, _MAX_RANDOM_IMAGES))


def _labels(labels: np.ndarray, dataset: data.Dataset, about: ModelInfo) -> np.ndarray | None:
    """Returns labels in the network's class order; None if the classes cannot be matched."""
    match = class_matching.match(
        about.class_names, about.num_classes, dataset.class_names, dataset.num_classes
    )
    if match.order is not None:
        return np.asarray(match.order)[labels]
    return labels if match.compares else None


def from_arrays(arrays: Any, preprocessing: Preprocessing, max_images: int) -> Images:
    """Returns the first `max_images` images of an array.

    Args:
      arrays: uint8 [N, H, W, channels], or a pair of such an array and labels [N].
      preprocessing: the network's preprocessing, which determines the image size.
      max_images: maximum number of images.

    Raises:
      InputError: the shape or type of the images or labels is invalid.
    """
    is_pair = isinstance(arrays, tuple | list) and len(arrays) == 2
    images, labels = arrays if is_pair else (arrays, None)
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != preprocessing.image_shape or not len(images):
        raise errors.InputError(
            f"images are {images.dtype} of shape {images.shape}, but must be uint8 [N,"
            f" {', '.join(map(str, preprocessing.image_shape))}]"
        )
    if labels is None:
        return Images(images[:max_images], None, "images")
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise errors.InputError(
            f"labels are {labels.dtype} of shape {labels.shape}, but must be integers of shape"
            f" ({len(images)},), one per image"
        )
    return Images(images[:max_images], labels[:max_images], "images")


def from_test_split(dataset: data.Dataset, max_images: int) -> Images:
    """Returns at most `max_images` test images, evenly spaced because a split may be sorted."""
    examples = dataset.test.examples
    indices = np.unique(
        np.linspace(0, len(examples) - 1, min(max_images, len(examples))).astype(int)
    )
    split = dataclasses.replace(dataset.test, examples=_Subset(examples, indices))
    images, labels = read_split(split)
    return Images(images, labels if dataset.labelled else None, "test images")


def read_split(split: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images and labels of a split."""
    if split.on_device:
        return split.images, split.labels
    batches = list(split.test_batches(min(100, len(split))))
    images, labels = (np.concatenate([b[name] for b in batches]) for name in ("image", "label"))
    return images[: len(split)], labels[: len(split)]


def from_folder(folder: pathlib.Path, preprocessing: Preprocessing, max_images: int) -> Images:
    """Reads at most `max_images` images of a folder and its subfolders, skipping unreadable files.

    Raises:
      InputError: the folder is missing, or has no readable images.
    """
    if not folder.is_dir():
        raise errors.InputError(f"{folder} is not a folder; pass a folder with images")
    names = file_listing.files([str(folder)])
    indices = np.unique(np.linspace(0, len(names) - 1, min(max_images, len(names))).astype(int))
    results = reader.read_all([names[index] for index in indices], preprocessing, prefetch=64)
    images = [image for _, image in results if isinstance(image, np.ndarray)]
    if not images:
        raise errors.InputError(f"{folder} has no readable images; pass another folder")
    return Images(np.stack(images), None, f"images of {folder}")


def random(preprocessing: Preprocessing, max_images: int) -> Images:
    """Returns random images, for a network whose test images are not available."""
    shape = (max_images, *preprocessing.image_shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return Images(pixels, None, "random images", is_real=False)


class _Subset(Sequence):
    """A subset of examples, selected by index."""

    def __init__(self, examples: Any, indices: Sequence[int]):
        self._examples, self._indices = examples, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        return self._examples[int(self._indices[index])]
