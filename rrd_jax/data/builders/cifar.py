"""CIFAR-10 and CIFAR-100, from the binary archives of their authors.

The builders write the same files as TFDS's builders, and `tfds.builder(name)` reads them.
"""

import pathlib
import tarfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rrd_jax.data.builders import archives, ordered
from rrd_jax.data.images import transforms


class Cifar10(archives.ArchivedBuilder, tfds.image_classification.Cifar10, skip_registration=True):
    """TFDS's builder of CIFAR-10, which reads the binary archive."""

    name = "cifar10"
    ARCHIVES = archives.registered(tfds.image_classification.Cifar10)

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
            return named | {"id": f"{prefix}{i:05d}", "image": transforms.encode_png(image)}

        return ordered.Examples(range(len(records)), records.nbytes, read)


class Cifar100(Cifar10, tfds.image_classification.Cifar100, skip_registration=True):
    """TFDS's builder of CIFAR-100, which reads the binary archive."""

    name = "cifar100"
    ARCHIVES = archives.registered(tfds.image_classification.Cifar100)
