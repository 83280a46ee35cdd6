"""ImageNet of 2012, from the two archives of its authors.

The builder writes what TFDS's own would: `tfds.builder(name)` reads it.
"""

import re
import tarfile
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from rrd_jax.data.builders import archives, ordered

_IMAGENET = tfds.builder_cls("imagenet2012")


class Imagenet2012(archives.ArchivedBuilder, _IMAGENET, skip_registration=True):
    """The stock builder, reading files inside the tars.

    Files are kept byte for byte; the stock builder re-encodes 23 of them, CMYK and PNG, as RGB
    JPEG.
    """

    name = "imagenet2012"
    # The md5 that the field publishes; TFDS knows the sizes.
    ARCHIVES = tuple(
        archives.Archive(name, "https://image-net.org/download-images", size, "md5", digest)
        for name, size, digest in (
            ("ILSVRC2012_img_train.tar", 147897477120, "1d675b47d978889d74fa0da5fadfb00e"),
            ("ILSVRC2012_img_val.tar", 6744924160, "29b22e2961454d5413ddabcf34fc5622"),
        )
    )

    def _examples(self) -> Mapping[str, ordered.Examples]:
        train_path, val_path = self._paths()
        train, synsets = archives.TarSlices(train_path), []
        with archives.reading(train_path, self.ARCHIVES[0].url), tarfile.open(train_path) as outer:
            for member in outer:
                with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                    train.add(inner, start=member.offset_data)
                synset = member.name.removesuffix(".tar")
                synsets += [self._label(synset)] * (len(train.names) - len(synsets))
        val = archives.TarSlices(val_path)
        with archives.reading(val_path, self.ARCHIVES[1].url), tarfile.open(val_path) as tar:
            val.add(tar)
            listed = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt")
            by_number = listed.read_text().split()
            labels = [by_number[_number(name) - 1] for name in val.names]
        return {
            "train": _imagenet_split(train, synsets, self.ARCHIVES[0].url),
            "validation": _imagenet_split(val, labels, self.ARCHIVES[1].url),
        }

    def _label(self, synset: str) -> str:
        if synset not in self.info.features["label"].names:
            raise ValueError(f"'{synset}.tar' in it is no synset of ImageNet")
        return synset


def _number(name: str) -> int:
    """The place, from 1, of a validation image in the list of labels."""
    match = re.fullmatch(r"(?:.*/)?ILSVRC2012_val_(\d{8})\.JPEG", name)
    if not match or not 1 <= int(match[1]) <= 50_000:
        raise ValueError(f"'{name}' in it is no image of the validation set")
    return int(match[1])


def _imagenet_split(files: archives.TarSlices, labels: list[str], url: str) -> ordered.Examples:
    def read(i: int) -> dict[str, Any]:
        return {"file_name": files.names[i], "image": files.read(i), "label": labels[i]}

    def reading():
        return archives.reading(files.path, url)

    return ordered.Examples(files.names, sum(files.sizes), read, reading)
