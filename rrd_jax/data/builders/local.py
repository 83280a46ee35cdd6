"""Data sets from installed packages: scikit-learn's digits, Debian's Fashion-MNIST."""

import gzip
import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rrd_jax import errors
from rrd_jax.data.images.transforms import encode_png

# sha256 of the decompressed files, because archives from different sources differ.
_FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FASHION_MNIST_DIR = "/usr/share/datasets/fashion-mnist"


class Digits(tfds.core.GeneratorBasedBuilder):
    """scikit-learn's 1 797 real handwritten digits, 8x8 pixels of 17 gray levels.

    The first 1 000 digits of a fixed shuffle are for training, the remaining 797 for testing.
    """

    name = "digits"
    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {  # noqa: RUF012
        "1.0.0": "1 000 training and 797 test images, each split in scikit-learn's order.",
        "2.0.0": "The same splits in the order of the shuffle, so that a part is a random part.",
    }

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        # The import takes a second and is needed once per machine.
        from sklearn import datasets

        digits = datasets.load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        # NumPy guarantees that RandomState never changes.
        order = np.random.RandomState(0).permutation(len(images))
        return {
            "train": _examples(images, digits.target, order[:1000]),
            "test": _examples(images, digits.target, order[1000:]),
        }

    def _generate_examples(self) -> None:
        raise NotImplementedError("the splits contain their examples")


class FashionMNIST(tfds.image_classification.FashionMNIST, skip_registration=True):
    """TFDS's builder of Fashion-MNIST, which reads idx files on this machine.

    `tfds.builder("fashion_mnist")` reads the result.
    """

    name = "fashion_mnist"
    manual_dir = FASHION_MNIST_DIR

    def _info(self) -> tfds.core.DatasetInfo:
        stock = super()._info()
        return tfds.core.DatasetInfo(
            builder=self,
            features=stock.features,
            supervised_keys=stock.supervised_keys,
            # Without shuffling, train[:10000] contains the first 10 000 published images.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        splits = {}
        for split, stem in (("train", "train"), ("test", "t10k")):
            images = self._read(f"{stem}-images-idx3-ubyte", 16).reshape(-1, 28, 28, 1)
            labels = self._read(f"{stem}-labels-idx1-ubyte", 8)
            splits[split] = _examples(images, labels, range(len(labels)))
        return splits

    def _read(self, stem: str, header: int) -> np.ndarray:
        path = pathlib.Path(self.manual_dir) / f"{stem}.gz"
        try:
            content = gzip.decompress(path.read_bytes())
        except FileNotFoundError:
            raise errors.InputError(
                f"{path} is missing; run `apt-get install dataset-fashion-mnist`, or put the four"
                " original *-ubyte.gz files into a folder and set --manual_dir to it (in a config,"
                " data.manual_dir)"
            ) from None
        except (EOFError, OSError) as error:
            raise errors.InputError(
                f"{path} cannot be read ({error}); download it again"
            ) from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != _FASHION_MNIST_SHA256[stem]:
            raise errors.InputError(
                f"{path} is not the published file: the sha256 of its content is {digest}, not"
                f" {_FASHION_MNIST_SHA256[stem]}; download it again"
            )
        return np.frombuffer(content, np.uint8, offset=header)


def _examples(images: np.ndarray, labels: np.ndarray, order: Any) -> Iterator[tuple[int, dict]]:
    # The key is the position in the order, because unshuffled sets are written by key.
    for key, i in enumerate(order):
        yield key, {"image": encode_png(images[i]), "label": int(labels[i])}
