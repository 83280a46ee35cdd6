"""Opens a data set: its training and test split, ready to feed the networks."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds

from rrd_jax import errors
from rrd_jax.data import examples, feed
from rrd_jax.data.builders import registry
from rrd_jax.data.source import Source

_RESIDENT_BYTES = 4e9


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What training needs of a data set.

    Attributes:
      version: name and version as TFDS writes them; of an image folder a digest of its listing.
      num_classes: C.
      image_shape: (H, W, channels) as the networks see them.
      train: the training split.
      test: the test split.
    """

    version: str
    num_classes: int
    image_shape: tuple[int, int, int]
    train: feed.Resident | feed.Streamed
    test: feed.Resident | feed.Streamed


def load(source: Source) -> Dataset:
    """Opens a data set, preparing it first where its source is on the machine.

    Raises:
      InputError: unknown name or split, or a set that is not prepared, with what to do.
    """
    with _mocked(source):
        builder = registry.create_builder(source.name, source.dir, source.manual_dir)
        if not source.mock_examples:
            builder = _prepared(source.name, builder)
        features = examples.image_and_label(source.name, builder.info)
        splits = [
            _read(source, builder, split, features)
            for split in (source.train_split, source.test_split)
        ]
    image, label = (builder.info.features[name] for name in features)
    channels = image.shape[-1]
    train, test = _feeds(source, splits, channels)
    return Dataset(
        version=builder.info.full_name,
        num_classes=label.num_classes,
        image_shape=(source.image_size, source.image_size, channels),
        train=train,
        test=test,
    )


def _mocked(source: Source) -> contextlib.AbstractContextManager:
    """While it lasts, TFDS makes random examples, if the source asks for them."""
    if not source.mock_examples:
        return contextlib.nullcontext()
    return tfds.testing.mock_data(num_examples=source.mock_examples)


def _prepared(name: str, builder: Any) -> Any:
    if registry.prepares_itself(name) and not builder.is_prepared():
        registry.prepare(name, builder)
    registry.check_prepared(name, builder)
    # Knows no more than the folder: worker processes can be sent what it opens.
    return tfds.builder_from_directory(builder.data_dir)


def _read(
    source: Source, builder: Any, split: str, features: examples.Features
) -> Sequence[dict[str, Any]]:
    if source.mock_examples:
        labelled = examples.mocked(builder, split, features)
    else:
        labelled = examples.stored(source.name, builder, split, features)
    if labelled[0]["label"] < 0:
        raise errors.InputError(f"split '{split}' of data set '{source.name}' has no labels")
    return labelled


def _feeds(
    source: Source, splits: list[Sequence[dict[str, Any]]], channels: int
) -> list[feed.Resident] | list[feed.Streamed]:
    """The training and the test split in memory, or streamed."""
    size = source.image_size
    too_large = sum(map(len, splits)) * size**2 * channels > _RESIDENT_BYTES
    streams = source.crops_on_host or source.feed == "streamed"
    if not streams and not (source.feed == "auto" and too_large):
        return [feed.Resident(split, size, channels) for split in splits]
    resize = source.resize if source.crops_on_host else None
    # Tested with threads: processes would be started anew for every test.
    return [
        feed.Streamed(split, size, channels, resize, workers)
        for split, workers in zip(splits, (source.workers, 0), strict=True)
    ]
