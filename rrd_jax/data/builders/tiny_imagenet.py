"""Tiny ImageNet, from the archive of its authors."""

import pathlib
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from rrd_jax.data.builders import archives, ordered


class TinyImagenet(archives.ArchivedBuilder, skip_registration=True):
    """Tiny ImageNet: 200 classes, 500 training and 50 validation images per class, 64x64 JPEG.

    Classes are synsets in alphabetical order. The test images have no labels and are omitted.
    """

    name = "tiny_imagenet"
    VERSION = tfds.core.Version("1.0.0")
    ARCHIVES = (
        archives.Archive(
            "tiny-imagenet-200.zip",
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            248100043,
            "md5",
            "90528d7ca1a48142e341f4ef8d21d0de",
        ),
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(64, 64, 3), encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(num_classes=200),
                    "file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="http://cs231n.stanford.edu/",
        )

    def _examples(self) -> Mapping[str, ordered.Examples]:
        (path,) = self._paths()
        with archives.reading(path, self.ARCHIVES[0].url):
            file = zipfile.ZipFile(path)
            root = "tiny-imagenet-200"
            self.info.features["label"].names = sorted(
                file.read(f"{root}/wnids.txt").decode().split()
            )
            # Synsets by path in the archive.
            train, validation = {}, {}
            for line in file.read(f"{root}/val/val_annotations.txt").decode().splitlines():
                image, synset = line.split("\t")[:2]
                validation[f"{root}/val/images/{image}"] = synset
            for name in file.namelist():
                if match := re.fullmatch(rf"{root}/train/([^/]+)/images/[^/]+\.JPEG", name):
                    train[name] = match[1]
        return {
            "train": self._split(path, file, train),
            "validation": self._split(path, file, validation),
        }

    def _split(
        self, path: pathlib.Path, file: zipfile.ZipFile, synsets: dict[str, str]
    ) -> ordered.Examples:
        members = list(synsets)
        names = [member.rpartition("/")[2] for member in members]

        def read(i: int) -> dict[str, Any]:
            label = synsets[members[i]]
            return {"image": file.read(members[i]), "label": label, "file_name": names[i]}

        def reading():
            return archives.reading(path, self.ARCHIVES[0].url)

        size = sum(file.getinfo(member).file_size for member in members)
        return ordered.Examples(names, size, read, reading)
