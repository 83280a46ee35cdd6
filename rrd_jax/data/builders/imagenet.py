"""ImageNet 2012, from the two archives of its authors.

The builder writes the same files as TFDS's builder, and `tfds.builder(name)` reads them.
"""

import re
import tarfile
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from rrd_jax.data.builders import archives, ordered

_IMAGENET = tfds.builder_cls("imagenet2012")


class Imagenet2012(archives.ArchivedBuilder, _IMAGENET, skip_registration=True):
    """TFDS's builder of ImageNet, which reads the files inside the tars.

    All files are kept byte for byte. The original builder re-encodes 23 CMYK and PNG files as RGB
    JPEG.
    """

    name = "imagenet2012"
    # The md5 digests are the commonly published ones; the sizes are those of TFDS.
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
            labels_file = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt")
            by_number = labels_file.read_text().split()
            labels = [by_number[_number(name) - 1] for name in val.names]
        return {
            "train": _imagenet_split(train, synsets, self.ARCHIVES[0].url),
            "validation": _imagenet_split(val, labels, self.ARCHIVES[1].url),
        }

    def _label(self, synset: str) -> str:
        if synset not in self.info.features["label"].names:
            raise ValueError(f"'{synset}.tar' in the archive is not an ImageNet synset")
        return synset


def _number(name: str) -> int:
    """Returns the position of a validation image in the list of labels, counted from 1."""
    match = re.fullmatch(r"(?:.*/)?ILSVRC2012_val_(\d{8})\.JPEG", name)
    if not match or not 1 <= int(match[1]) <= 50_000:
        raise ValueError(f"'{name}' in the archive is not an image of the validation set")
    return int(match[1])


def _imagenet_split(files: archives.TarSlices, labels: list[str], url: str) -> ordered.Examples:
    def read(i: int) -> dict[str, Any]:
        return {"file_name": files.names[i], "image": files.read(i), "label": labels[i]}

    def reading():
        return archives.reading(files.path, url)

    return ordered.Examples(files.names, sum(files.sizes), read, reading)
