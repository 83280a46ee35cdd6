"""The user's own images, in a folder for each class."""

import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from tensorflow_datasets.core import hashing

from rrd_jax import errors
from rrd_jax.data.builders import ordered

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
TEST_FRACTION = 0.1  # of the files, where no folder says which are for testing
_SPLITS = {"train": "train", "test": "test", "val": "validation", "validation": "validation"}


class File(NamedTuple):
    """An image on disk.

    Attributes:
      label: its class.
      key: its path below the folder of classes, with slashes.
      path: where it is.
      size: in bytes.
      changed: when, in nanoseconds.
    """

    label: str
    key: str
    path: str
    size: int
    changed: int


class ImageFolder(ordered.OrderedBuilder, skip_registration=True):
    """Images in root/class/, or in root/train/class/ and root/test, val or validation/class/.

    Without split folders a tenth of the files is for testing, chosen by a hash of class and name:
    files that are added move no other. What is written lies in a folder named by a digest of the
    listing, so a changed tree is prepared anew, beside the old one.
    """

    name = "image_folder"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, manual_dir: str, **options: Any):
        if not os.path.isdir(manual_dir):
            raise errors.InputError(
                f"image folder '{manual_dir}' does not exist: name the folder that holds a folder"
                " of images for each class with --manual_dir (in a config, data.manual_dir)"
            )
        self._files = _files_by_split(pathlib.Path(manual_dir))
        self._classes = _class_names(self._files, manual_dir)
        digest = hashlib.sha256()
        for split, files in self._files.items():
            for file in files:
                digest.update(f"{split} {file.key} {file.size} {file.changed}\n".encode())
        config = tfds.core.BuilderConfig(name=digest.hexdigest()[:16])
        super().__init__(config=config, **options)
        self.manual_dir = manual_dir

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "label": tfds.features.ClassLabel(names=self._classes),
                    "file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _examples(self) -> Mapping[str, ordered.Examples]:
        return {split: _examples(files) for split, files in self._files.items()}


def _examples(files: list[File]) -> ordered.Examples:
    def read(i: int) -> dict[str, Any]:
        file = files[i]
        content = pathlib.Path(file.path).read_bytes()
        return {"image": content, "label": file.label, "file_name": file.key}

    return ordered.Examples([file.key for file in files], sum(file.size for file in files), read)


def _files_by_split(root: pathlib.Path) -> dict[str, list[File]]:
    folders = [folder for folder in _SPLITS if (root / folder).is_dir()]
    if not folders:
        return _divide(list(_walk(root)))
    if "train" not in folders or {"val", "validation"} <= set(folders):
        raise errors.InputError(
            f"image folder {root} has {', '.join(folders)}: it takes train, and beside it test, and"
            " one of val and validation, each with one folder of images per class; or the folders"
            " of the classes alone"
        )
    return {_SPLITS[folder]: list(_walk(root / folder)) for folder in folders}


def _walk(root: pathlib.Path) -> Iterator[File]:
    """The images in the folders of the classes, in the order of their paths."""
    for folder, inner, names in os.walk(root, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if folder == str(root):
            continue  # images without a class
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                path = os.path.join(folder, name)
                # Names need not be UTF-8 on disk, but are where they are stored.
                key = os.fsencode(os.path.relpath(path, root)).decode(errors="replace")
                key = key.replace(os.sep, "/")
                state = os.stat(path)
                yield File(key.split("/")[0], key, path, state.st_size, state.st_mtime_ns)


def _divide(files: list[File]) -> dict[str, list[File]]:
    hasher = hashing.Hasher("image_folder")
    splits: dict[str, list[File]] = {"train": [], "test": []}
    for file in files:
        place = hasher.hash_key(file.key) / 2**128
        splits["test" if place < TEST_FRACTION else "train"].append(file)
    return splits


def _class_names(splits: Mapping[str, list[File]], root: str) -> list[str]:
    """The classes of the training images, in alphabetical order."""
    classes = {file.label for file in splits["train"]}
    for split, files in splits.items():
        if not files:
            raise errors.InputError(
                f"image folder {root} has no images for split '{split}': it needs"
                f" CLASS/FILE with {', '.join(SUFFIXES)}"
            )
        if unknown := {file.label for file in files} - classes:
            raise errors.InputError(
                f"image folder {root} has class '{min(unknown)}' in split '{split}', but no"
                " training image of it"
            )
    return sorted(classes)
