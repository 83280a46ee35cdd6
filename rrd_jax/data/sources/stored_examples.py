"""Examples of a prepared set: an encoded image, a label, and a file name if there is one."""

import dataclasses
import os
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from rrd_jax import errors
from rrd_jax.data.splits import Examples


class Features(NamedTuple):
    """Names of the features that are the image and the class; "" for no class."""

    image: str
    label: str = ""


@dataclasses.dataclass(frozen=True)
class StoredExamples(Examples):
    """Examples as they are stored: `image` encoded, `label` and `file_name` if they are stored.

    TFDS would convert every feature of an example, used or not, by way of numpy.

    Attributes:
      records: serialized tf.train.Examples.
      features: the features to read.
      subject: the set and its folder, for messages.
      way_out: what to do about a damaged example, for messages.
    """

    records: Sequence[bytes]
    features: Features
    subject: str
    way_out: str

    def __len__(self) -> int:
        return len(self.records)

    def read(self, i: int) -> dict[str, Any]:
        """Returns example i; raises an InputError if it is damaged."""
        try:
            values = tf_example_pb2.Example.FromString(self.records[i]).features.feature
            example = {"image": values[self.features.image].bytes_list.value[0]}
            if self.features.label:
                example["label"] = values[self.features.label].int64_list.value[0]
        except Exception as error:  # An error of ArrayRecord or protobuf, or an empty list.
            raise damaged(self.subject, f"example {i}: {error}", self.way_out) from error
        for name in ("file_name", "id"):
            if name in values and values[name].bytes_list.value:
                return example | {"file_name": values[name].bytes_list.value[0]}
        return example


def damaged(subject: str, reason: str, way_out: str) -> errors.InputError:
    """Returns the error for a prepared set that is damaged."""
    return errors.InputError(f"{subject} is damaged ({textwrap.shorten(reason, 200)}): {way_out}")


def stored(
    name: str, builder: Any, split: str, features: Features, way_out: str = "prepare it again"
) -> StoredExamples:
    """Returns the examples of a split of data set `name`.

    Raises:
      InputError: there is no such split, or its files are damaged, as far as their sizes and the
        first and the last example show.
    """
    subject = f"data set '{name}' under {builder.data_dir}"
    if not builder.info.splits:
        raise damaged(subject, "its dataset_info.json has no splits", way_out)
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    try:
        records = builder.as_data_source(split, deserialize_method=raw)
    except (KeyError, ValueError, NotImplementedError) as error:
        reason, known = str(error).split("\n")[0], ", ".join(builder.info.splits)
        raise errors.InputError(
            f"split '{split}' of data set '{name}' cannot be read ({reason}); its splits: {known}"
        ) from error
    examples = StoredExamples(records, features, subject, way_out)
    for path, _ in parts(builder, split):
        if not os.path.isfile(path) or not os.path.getsize(path):
            raise damaged(subject, f"{os.path.basename(path)} is missing or empty", way_out)
    for i in {0, len(examples) - 1}:
        examples.read(i)
    return examples


def parts(builder: Any, split: str) -> list[tuple[str, range]]:
    """Returns the files of a split, and the ranges of its examples in them."""
    files = builder.info.splits[split].file_instructions
    return [(str(file.filename), range(file.skip, file.skip + file.take)) for file in files]


def mocked(builder: Any, split: str, features: Features) -> list[dict[str, Any]]:
    """Returns random examples of TFDS, which draws them whenever they are read: here, once."""
    names = {part: name for part, name in features._asdict().items() if name}
    return [
        {part: example[name] for part, name in names.items()}
        for example in builder.as_data_source(split.split("[")[0])
    ]


def image_and_label(name: str, info: tfds.core.DatasetInfo, *, use_labels: bool = True) -> Features:
    """Returns the features to read: image and label, TFDS's supervised ones, or the only ones.

    Args:
      name: name of the data set.
      info: its description.
      use_labels: whether a class is needed; if not, the only image is enough, or `image`.

    Raises:
      InputError: data set `name` has no image of one or three channels, or no class.
    """
    features = dict(info.features.items())
    images = [key for key, feature in features.items() if _is_picture(feature)]
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
    wanted = " and a class 'label' are needed, or one of each under other names"
    if not use_labels:
        wanted = " is needed, or one under another name"
    raise errors.InputError(
        f"data set '{name}' has features {', '.join(features)}; a grey or RGB 'image'{wanted}"
    )


def _is_picture(feature: Any) -> bool:
    return isinstance(feature, tfds.features.Image) and feature.shape[-1] in (1, 3)
