"""STL-10, from the binary archive of its authors.

The builder writes the same files as TFDS's builder, and `tfds.builder(name)` reads them.
"""

import pathlib
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rrd_jax.data.builders import archives, ordered
from rrd_jax.data.images import transforms

_STL10 = tfds.builder_cls("stl10")


class STL10(archives.ArchivedBuilder, _STL10, skip_registration=True):
    """TFDS's builder of STL-10, which reads the binary archive."""

    name = "stl10"
    ARCHIVES = archives.registered(_STL10)

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
            # Label 0 is stored as -1.
            unlabelled = np.zeros(len(pixels["unlabeled"]), np.uint8)
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
    """Extracts images [N, 3, 96, 96] to disk; the images without labels have 2.8 GB."""
    # The file has no name, so the system deletes it when the array is freed.
    with tempfile.TemporaryFile(dir=folder) as file:
        shutil.copyfileobj(tar.extractfile(member), file)
        file.flush()
        return np.memmap(file, np.uint8, mode="r").reshape(-1, 3, 96, 96)


def _stl10_split(pixels: np.ndarray, labels: np.ndarray) -> ordered.Examples:
    if len(pixels) != len(labels):
        raise ValueError(f"number of labels {len(labels)}, of images {len(pixels)}")

    def read(i: int) -> dict[str, Any]:
        # Images are stored column by column, and classes are counted from 1.
        return {
            "image": transforms.encode_png(pixels[i].transpose(2, 1, 0)),
            "label": int(labels[i]) - 1,
        }

    return ordered.Examples(range(len(pixels)), pixels.nbytes, read)
