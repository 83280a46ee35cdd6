"""Examples of a prepared data set: an encoded image, a label, and optionally a file name."""

import dataclasses
import os
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from rrd_jax import errors
from rrd_jax.data.splits import Examples

# Names of features that hold masks.
_MASKS = ("mask", "segmentation_mask")


class Features(NamedTuple):
    """Names of the features that hold the image, the class and the mask; "" for none."""

    image: str
    label: str = ""
    mask: str = ""


@dataclasses.dataclass(frozen=True)
class StoredExamples(Examples):
    """Examples with encoded `image`, and with `label`, `mask` and `file_name` if these are stored.

    TFDS itself would convert every feature of an example to numpy, including unused features.

    Attributes:
      records: serialized tf.train.Examples.
      features: the features to read.
      subject: name and folder of the data set, for messages.
      remedy: what to do about a damaged example, for messages.
    """

    records: Sequence[bytes]
    features: Features
    subject: str
    remedy: str

    def __len__(self) -> int:
        return len(self.records)

    def read(self, i: int) -> dict[str, Any]:
        """Returns example i; raises an InputError if the example is damaged."""
        try:
            values = tf_example_pb2.Example.FromString(self.records[i]).features.feature
            example = {"image": values[self.features.image].bytes_list.value[0]}
            if self.features.mask:
                example["mask"] = values[self.features.mask].bytes_list.value[0]
            if self.features.label:
                example["label"] = values[self.features.label].int64_list.value[0]
        # ArrayRecord and protobuf have their own types of exceptions; a list may be empty.
        except Exception as error:
            raise damaged_error(self.subject, f"example {i}: {error}", self.remedy) from error
        for name in ("file_name", "id"):
            if name in values and values[name].bytes_list.value:
                return example | {"file_name": values[name].bytes_list.value[0]}
        return example


def damaged_error(subject: str, reason: str, remedy: str) -> errors.InputError:
    """Returns the error for a damaged prepared data set."""
    return errors.InputError(f"{subject} is damaged ({textwrap.shorten(reason, 200)}); {remedy}")


def open_stored(
    name: str, builder: Any, split: str, features: Features, remedy: str = "prepare it again"
) -> StoredExamples:
    """Opens a split of data set `name`.

    Files are checked by their sizes and by the first and the last example.

    Raises:
      InputError: the split does not exist, or its files are damaged.
    """
    subject = f"data set '{name}' under {builder.data_dir}"
    if not builder.info.splits:
        raise damaged_error(subject, "dataset_info.json has no splits", remedy)
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    try:
        records = builder.as_data_source(split, deserialize_method=raw)
    except (KeyError, ValueError, NotImplementedError) as error:
        reason, available = str(error).split("\n")[0], ", ".join(builder.info.splits)
        raise errors.InputError(
            f"split '{split}' of data set '{name}' cannot be read ({reason}); available splits:"
            f" {available}"
        ) from error
    examples = StoredExamples(records, features, subject, remedy)
    for path, _ in file_ranges(builder, split):
        if not os.path.isfile(path) or not os.path.getsize(path):
            raise damaged_error(subject, f"{os.path.basename(path)} is missing or empty", remedy)
    for i in {0, len(examples) - 1}:
        examples.read(i)
    return examples


def file_ranges(builder: Any, split: str) -> list[tuple[str, range]]:
    """Returns the files of a split, each with the range of examples in the file."""
    files = builder.info.splits[split].file_instructions
    return [(str(file.filename), range(file.skip, file.skip + file.take)) for file in files]


def random_examples(builder: Any, split: str, features: Features) -> list[dict[str, Any]]:
    """Returns random examples of TFDS as a list, because TFDS draws them again on every read."""
    names = {part: name for part, name in features._asdict().items() if name}
    return [
        {part: example[name] for part, name in names.items()}
        for example in builder.as_data_source(split.split("[")[0])
    ]


def image_and_label(name: str, info: tfds.core.DatasetInfo, *, use_labels: bool = True) -> Features:
    """Returns the features to read: `image` and `label`, the supervised keys, or the only ones.

    Args:
      name: name of the data set.
      info: TFDS's description of the data set.
      use_labels: whether a class is needed; otherwise one image feature is enough.

    Raises:
      InputError: the data set has no image of one or three channels, or no class.
    """
    features = dict(info.features.items())
    images = [key for key, feature in features.items() if _is_image(feature)]
    labels = [
        key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)
    ]
    candidates = [("image", "label"), info.supervised_keys]
    if len(images) == len(labels) == 1:
        candidates.append((images[0], labels[0]))
    for pair in candidates:
        if pair and len(pair) == 2 and pair[0] in images and pair[1] in labels:
            return Features(*pair)
    if not use_labels and ("image" in images or len(images) == 1):
        return Features("image" if "image" in images else images[0])
    needed = " and a class 'label', or exactly one image and one class of other names"
    if not use_labels:
        needed = ", or exactly one image of another name"
    raise errors.InputError(
        f"data set '{name}' has features {', '.join(features)}, but needs a grayscale or RGB"
        f" 'image'{needed}"
    )


def image_and_mask(name: str, info: tfds.core.DatasetInfo) -> Features:
    """Returns the features to read: an image, and a mask of one channel.

    Raises:
      InputError: the data set has no image, or no feature `mask` or `segmentation_mask`.
    """
    features = dict(info.features.items())
    masks = [key for key in _MASKS if _is_image(features.get(key)) and features[key].shape[-1] == 1]
    if "image" in features and masks:
        return Features("image", mask=masks[0])
    raise errors.InputError(
        f"data set '{name}' has features {', '.join(features)}, but needs 'image' and a mask of one"
        f" channel, {' or '.join(map(repr, _MASKS))}"
    )


def _is_image(feature: Any) -> bool:
    return isinstance(feature, tfds.features.Image) and feature.shape[-1] in (1, 3)
