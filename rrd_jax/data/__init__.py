"""Data sets, by name: TFDS read through `as_data_source`, without TensorFlow."""

import contextlib
import dataclasses
import difflib
import warnings
from typing import Any

import tensorflow_datasets as tfds

from rrd_jax import errors
from rrd_jax.data import augment, builders, feed

# Sets with a config or a recipe of their own; any other TFDS set with image and label works too.
FIRST_CLASS = ("digits", "fashion_mnist", "cifar10", "cifar100", "imagenet2012")

# Builders of ours, which prepare themselves at first use; any other name is looked up in TFDS.
DATASETS: dict[str, type[tfds.core.DatasetBuilder]] = {
    "digits": builders.Digits,
    "fashion_mnist": builders.FashionMNIST,
}

_MANUAL = {
    "imagenet2012": "put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into {manual}, then ",
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What training needs of a data set.

    Attributes:
      num_classes: C.
      image_shape: (H, W, channels) as the networks see them.
      train: the training split.
      test: the test split.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    train: feed.Resident | feed.Streamed
    test: feed.Resident | feed.Streamed


def load(
    name: str,
    *,
    data_dir: str = "",
    manual_dir: str = "",
    train_split: str = "train",
    test_split: str = "test",
    image_size: int,
    resize: int,
    augmentation: str,
    mock_examples: int = 0,
) -> Dataset:
    """Opens a data set, preparing it first where that needs no network.

    Args:
      name: a key of DATASETS, or any TFDS set with features `image` and `label`.
      data_dir: where TFDS keeps prepared sets; "" for its default.
      manual_dir: where a builder of ours finds its source files; "" for its default.
      train_split: a TFDS split expression, such as "train[:10000]".
      test_split: likewise.
      image_size: height and width that the networks see.
      resize: short side before the central crop at test time, for streamed sets.
      augmentation: the kind; those on the host stream, the others keep the set in memory.
      mock_examples: above 0, that many random examples a split stand in for the data.

    Raises:
      InputError: unknown name or split, or a set that is not prepared, with what to do.
    """
    mock = tfds.testing.mock_data(num_examples=mock_examples) if mock_examples else None
    with mock or contextlib.nullcontext():
        builder = _builder(name, data_dir, manual_dir, prepare=not mock)
        features = builder.info.features
        _check_features(name, features)
        channels = features["image"].shape[-1]
        splits = []
        for split in (train_split, test_split):
            if mock:  # its examples are made while they are read: read them once, here
                source = list(builder.as_data_source(split.split("[")[0]))
            else:
                source = _open(builder, name, split)
            if augmentation in augment.HOST:
                splits.append(feed.Streamed(source, image_size, channels, resize))
            else:
                splits.append(feed.resident(source, image_size, channels))
    return Dataset(
        features["label"].num_classes, (image_size, image_size, channels), splits[0], splits[1]
    )


def _check_features(name: str, features: Any) -> None:
    found = dict(features.items())
    image, label = found.get("image"), found.get("label")
    pictures = isinstance(image, tfds.features.Image) and image.shape[-1] in (1, 3)
    if not pictures or not isinstance(label, tfds.features.ClassLabel):
        raise errors.InputError(
            f"data set '{name}' has features {', '.join(features)}; a grey or RGB 'image' and a"
            " class 'label' are needed"
        )


def _builder(name: str, data_dir: str, manual_dir: str, *, prepare: bool) -> Any:
    options: dict[str, Any] = {"file_format": "array_record"}
    if data_dir:
        options["data_dir"] = data_dir
    if name in DATASETS:
        builder = DATASETS[name](**options)
        if prepare and not builder.is_prepared():
            builder.manual_dir = manual_dir or getattr(builder, "manual_dir", "")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                builder.download_and_prepare()
        return builder
    try:
        builder = tfds.builder(name, **options)
    except tfds.core.DatasetNotFoundError:
        every = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(name, [*FIRST_CLASS, *every], n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise errors.InputError(
            f"unknown data set '{name}'; {hint}known: {', '.join(FIRST_CLASS)} and every TFDS set"
            " of labelled images"
        ) from None
    if prepare and not builder.is_prepared():
        root = data_dir or tfds.core.constants.DATA_DIR
        manual = _MANUAL.get(name, "").format(manual=f"{root}/downloads/manual")
        raise errors.InputError(
            f"data set '{name}' is not prepared under {root}: {manual}run, where tensorflow is"
            f" installed, `tfds build {name} --data_dir={root} --file_format=array_record`"
        )
    return builder


def _open(builder: Any, name: str, split: str) -> Any:
    try:
        decoders = {"image": tfds.decode.SkipDecoding()}
        return builder.as_data_source(split, decoders=decoders)
    except (KeyError, ValueError, NotImplementedError) as error:
        reason, known = str(error).split("\n")[0], ", ".join(builder.info.splits)
        raise errors.InputError(
            f"split '{split}' of data set '{name}' cannot be read ({reason}); its splits: {known}"
        ) from error
