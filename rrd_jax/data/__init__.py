"""Data sets, by name: TFDS read through `as_data_source`, without TensorFlow."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from rrd_jax import errors
from rrd_jax.data import augment, feed, sets

DATASETS = sets.DATASETS

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


def load(source):
    return _load(
        source.name,
        data_dir=source.dir,
        manual_dir=source.manual_dir,
        train_split=source.train_split,
        test_split=source.test_split,
        image_size=source.image_size,
        resize=source.resize,
        augmentation=source.augment,
        feeding=source.feed,
        workers=source.workers,
        mock_examples=source.mock_examples,
    )


def _load(
    name: str,
    *,
    data_dir: str = "",
    manual_dir: str = "",
    train_split: str = "train",
    test_split: str = "test",
    image_size: int,
    resize: int,
    augmentation: str,
    feeding: str = "auto",
    workers: int = 0,
    mock_examples: int = 0,
) -> Dataset:
    """Opens a data set, preparing it first where its source is on the machine.

    Args:
      name: a key of DATASETS, or any TFDS set with a feature that is an image and one that is
        a class.
      data_dir: where TFDS keeps prepared sets; "" for its default.
      manual_dir: where the source files are, of image_folder and fashion_mnist, or whatever a
        message about a set that is not prepared is to name; "" for the default.
      train_split: a TFDS split expression, such as "train[:10000]".
      test_split: likewise.
      image_size: height and width that the networks see.
      resize: short side before the central crop at test time, for streamed sets.
      augmentation: the kind; for those on the host images must be streamed.
      feeding: "resident" to decode a split into memory at its first use, "streamed" to decode
        images as they are used, "auto" to stream what does not fit into 4 GB.
      workers: processes that decode streamed images; 0 for threads.
      mock_examples: above 0, that many random examples a split stand in for the data.

    Raises:
      InputError: unknown name or split, or a set that is not prepared, with what to do.
    """
    errors.lookup("feed", feeding, dict.fromkeys(("auto", "resident", "streamed")))
    if workers < 0:
        raise errors.InputError(f"data.workers is {workers}, but must be 0 or above")
    on_host = augmentation in augment.HOST
    if feeding == "resident" and on_host:
        raise errors.InputError(
            f"data.feed is resident, but data.augment '{augmentation}' cuts images of any size:"
            " stream them, or choose crop_flip"
        )
    mock = tfds.testing.mock_data(num_examples=mock_examples) if mock_examples else None
    with mock or contextlib.nullcontext():
        builder = sets.builder(name, data_dir, manual_dir)
        if not mock:
            builder = _prepared(name, builder)
        features = builder.info.features
        image, label = _keys(name, builder.info)
        channels = features[image].shape[-1]
        sources = []
        for split in (train_split, test_split):
            if mock:  # its examples are made while they are read: read them once, here
                made = builder.as_data_source(split.split("[")[0])
                source = [{"image": e[image], "label": e[label]} for e in made]
            else:
                source = _Examples(_open(builder, name, split), image, label)
            if source[0]["label"] < 0:
                raise errors.InputError(f"split '{split}' of data set '{name}' has no labels")
            sources.append(source)
    size = sum(map(len, sources)) * image_size**2 * channels
    if on_host or feeding == "streamed" or (feeding == "auto" and size > _RESIDENT_BYTES):
        central = resize if on_host else None
        # Tested with threads: processes would be started anew for every test.
        splits = [
            feed.Streamed(source, image_size, channels, central, count)
            for source, count in zip(sources, (workers, 0), strict=True)
        ]
    else:
        splits = [feed.Resident(source, image_size, channels) for source in sources]
    return Dataset(
        version=builder.info.full_name,
        num_classes=features[label].num_classes,
        image_shape=(image_size, image_size, channels),
        train=splits[0],
        test=splits[1],
    )


@dataclasses.dataclass(frozen=True)
class _Examples(Sequence):
    """Stored examples: `image` encoded, `label`, and the name of the image if it has one.

    TFDS would convert every feature of an example, used or not, by way of numpy.

    Attributes:
      records: serialized tf.train.Examples.
      image: the feature that is the image.
      label: the feature that is the class.
    """

    records: Sequence[bytes]
    image: str
    label: str

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> dict[str, Any]:
        if i >= len(self):
            raise IndexError(i)
        stored = tf_example_pb2.Example.FromString(self.records[i]).features.feature
        example = {
            "image": stored[self.image].bytes_list.value[0],
            "label": stored[self.label].int64_list.value[0],
        }
        for name in ("file_name", "id"):
            if name in stored and stored[name].bytes_list.value:
                return example | {"file_name": stored[name].bytes_list.value[0]}
        return example


def _prepared(name: str, builder: Any) -> Any:
    if sets.prepares_itself(name) and not builder.is_prepared():
        sets.prepare(name, builder)
    sets.check_prepared(name, builder)
    # Knows no more than the folder: worker processes can be sent what it opens.
    return tfds.builder_from_directory(builder.data_dir)


def _keys(name: str, info: tfds.core.DatasetInfo) -> tuple[str, str]:
    """The names of the image and the class: image and label, or those that training would use."""
    features = dict(info.features.items())
    images = [key for key, feature in features.items() if _is_picture(feature)]
    labels = [key for key, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    choices = [("image", "label"), info.supervised_keys]
    if len(images) == len(labels) == 1:
        choices.append((images[0], labels[0]))
    for pair in choices:
        if pair and len(pair) == 2 and pair[0] in images and pair[1] in labels:
            return pair
    raise errors.InputError(
        f"data set '{name}' has features {', '.join(features)}; a grey or RGB 'image' and a"
        " class 'label' are needed, or one of each under other names"
    )


def _is_picture(feature: Any) -> bool:
    return isinstance(feature, tfds.features.Image) and feature.shape[-1] in (1, 3)


def _open(builder: Any, name: str, split: str) -> Sequence[bytes]:
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    try:
        return builder.as_data_source(split, deserialize_method=raw)
    except (KeyError, ValueError, NotImplementedError) as error:
        reason, known = str(error).split("\n")[0], ", ".join(builder.info.splits)
        raise errors.InputError(
            f"split '{split}' of data set '{name}' cannot be read ({reason}); its splits: {known}"
        ) from error
