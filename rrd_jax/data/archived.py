"""Sets prepared from the archives that their authors publish.

The subclasses of stock builders write what the stock builder would: `tfds.builder(name)` reads it.
"""

import pathlib
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from typing import Any, ClassVar

import cv2
import numpy as np
import tensorflow_datasets as tfds

from rrd_jax.data import archives, ordered


def _registered(stock: type[tfds.core.DatasetBuilder]) -> tuple[archives.Archive, ...]:
    """The archives whose sha256 TFDS keeps with its builder."""
    return tuple(
        archives.Archive(url.rpartition("/")[2], url, int(info.size), "sha256", info.checksum)
        for url, info in stock.url_infos.items()
    )


class ArchivedBuilder(ordered.OrderedBuilder, skip_registration=True):
    """A builder that reads published archives.

    Attributes:
      ARCHIVES: what must lie in `manual_dir`.
    """

    ARCHIVES: ClassVar[tuple[archives.Archive, ...]]

    def _paths(self) -> list[pathlib.Path]:
        folder = pathlib.Path(self.manual_dir)
        return [archives.find(one, folder, verify=self.verify) for one in self.ARCHIVES]


class Cifar10(ArchivedBuilder, tfds.image_classification.Cifar10, skip_registration=True):
    """The stock builder, reading the binary archive."""

    name = "cifar10"
    ARCHIVES = _registered(tfds.image_classification.Cifar10)

    def _examples(self) -> Mapping[str, ordered.Examples]:
        (path,) = self._paths()
        layout = self._cifar_info
        with archives.reading(path, self.ARCHIVES[0].url), tarfile.open(path) as tar:
            content = {
                pathlib.PurePath(member.name).name: tar.extractfile(member).read()
                for member in tar
                if member.isfile()
            }
            for key, file in zip(layout.label_keys, layout.label_files, strict=True):
                self.info.features[key].names = content[file].decode().split()
            return {
                "train": self._split("train_", [content[file] for file in layout.train_files]),
                "test": self._split("test_", [content[file] for file in layout.test_files]),
            }

    def _split(self, prefix: str, files: list[bytes]) -> ordered.Examples:
        label_keys = self._cifar_info.label_keys
        records = np.frombuffer(b"".join(files), np.uint8)
        records = records.reshape(-1, len(label_keys) + 3 * 32 * 32)

        def read(i: int) -> dict[str, Any]:
            labels, pixels = np.split(records[i], [len(label_keys)])
            image = pixels.reshape(3, 32, 32).transpose(1, 2, 0)
            named = dict(zip(label_keys, labels.tolist(), strict=True))
            return named | {"id": f"{prefix}{i:05d}", "image": _png(image)}

        return ordered.Examples(range(len(records)), records.nbytes, read)


class Cifar100(Cifar10, tfds.image_classification.Cifar100, skip_registration=True):
    """The stock builder, reading the binary archive."""

    name = "cifar100"
    ARCHIVES = _registered(tfds.image_classification.Cifar100)


_STL10 = tfds.builder_cls("stl10")


class STL10(ArchivedBuilder, _STL10, skip_registration=True):
    """The stock builder, reading the binary archive."""

    name = "stl10"
    ARCHIVES = _registered(_STL10)

    def _examples(self) -> Mapping[str, ordered.Examples]:
        (path,) = self._paths()
        pixels, content = {}, {}
        with archives.reading(path, self.ARCHIVES[0].url), tarfile.open(path) as tar:
            for member in tar:
                file = pathlib.PurePath(member.name).name
                if file.endswith("_X.bin"):
                    pixels[file.removesuffix("_X.bin")] = _mapped(tar, member, self.data_dir)
                elif member.isfile():
                    content[file] = tar.extractfile(member).read()
            self.info.features["label"].names = content["class_names.txt"].decode().split()
            unlabelled = np.zeros(len(pixels["unlabeled"]), np.uint8)  # stored as label -1
            labels = {
                "train": np.frombuffer(content["train_y.bin"], np.uint8),
                "test": np.frombuffer(content["test_y.bin"], np.uint8),
            }
            return {
                "train": _stl10_split(pixels["train"], labels["train"]),
                "test": _stl10_split(pixels["test"], labels["test"]),
                "unlabelled": _stl10_split(pixels["unlabeled"], unlabelled),
            }


def _mapped(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: str) -> np.ndarray:
    """[N, 3, 96, 96] images of a compressed tar, on disk: those without labels are 2.8 GB."""
    with tempfile.TemporaryFile(dir=folder) as file:  # has no name, so nothing is left of it
        shutil.copyfileobj(tar.extractfile(member), file)
        file.flush()
        return np.memmap(file, np.uint8, mode="r").reshape(-1, 3, 96, 96)


def _stl10_split(pixels: np.ndarray, labels: np.ndarray) -> ordered.Examples:
    if len(pixels) != len(labels):
        raise ValueError(f"{len(labels)} labels for {len(pixels)} images")

    def read(i: int) -> dict[str, Any]:
        # Stored column by column; classes are counted from 1.
        return {"image": _png(pixels[i].transpose(2, 1, 0)), "label": int(labels[i]) - 1}

    return ordered.Examples(range(len(pixels)), pixels.nbytes, read)


_IMAGENET = tfds.builder_cls("imagenet2012")


class Imagenet2012(ArchivedBuilder, _IMAGENET, skip_registration=True):
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
        train, synsets = archives.Slices(train_path), []
        with archives.reading(train_path, self.ARCHIVES[0].url), tarfile.open(train_path) as outer:
            for member in outer:
                with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                    train.add(inner, start=member.offset_data)
                synset = member.name.removesuffix(".tar")
                synsets += [self._label(synset)] * (len(train.names) - len(synsets))
        val = archives.Slices(val_path)
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


def _imagenet_split(files: archives.Slices, labels: list[str], url: str) -> ordered.Examples:
    def read(i: int) -> dict[str, Any]:
        return {"file_name": files.names[i], "image": files.read(i), "label": labels[i]}

    def reading():
        return archives.reading(files.path, url)

    return ordered.Examples(files.names, sum(files.sizes), read, reading)


class TinyImagenet(ArchivedBuilder, skip_registration=True):
    """Tiny ImageNet: 200 classes, 500 training and 50 validation images of each, 64x64 JPEG.

    Classes are synsets in alphabetical order. The test images have no labels and are left out.
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
            train, validation = {}, {}  # path in the archive: synset
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


def _png(image: np.ndarray) -> bytes:
    """An RGB image, encoded here: TFDS encodes arrays with TensorFlow."""
    _, png = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR))
    return png.tobytes()
