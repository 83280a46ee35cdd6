"""What the checks of a folder of images cost, beside decoding its images once.

python experiments/folder_scan.py --root=ROOT
"""

import os
import pathlib
import tempfile
import time

import cv2
import numpy as np
from absl import app, flags

from rrd_jax import data, errors
from rrd_jax.terminal import cli

_ROOT = flags.DEFINE_string("root", None, "A folder of images as image_folder takes it.")


def _decode_all(root: str) -> tuple[int, int]:
    count = size = 0
    for folder, _, names in os.walk(root):
        for name in names:
            content = pathlib.Path(folder, name).read_bytes()
            cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
            count, size = count + 1, size + len(content)
    return count, size


def _open(root: str, index: str) -> float:
    began = time.perf_counter()
    data.load(data.Source("image_folder", dir=index, manual_dir=root, feed="streamed"))
    return time.perf_counter() - began


def main(argv: list[str]) -> None:
    """Prints a table."""
    del argv
    cli.guard(_job)


def _job() -> None:
    if not _ROOT.value:
        raise errors.InputError("--root is missing: a folder of images, as image_folder takes it")
    cv2.setNumThreads(0)
    began = time.perf_counter()
    count, size = _decode_all(_ROOT.value)  # first: the files are then in the system's memory
    decoding = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as index:
        first, second = _open(_ROOT.value, index), _open(_ROOT.value, index)
    print(f"{count:,} images of {size / count / 1e3:.0f} kB, {os.cpu_count()} cores")
    print("\n| | seconds | share |\n|---|---|---|")
    for name, seconds in (
        ("decoding once, OpenCV, one thread", decoding),
        ("checks, first start", first),
        ("checks, second start", second),
    ):
        print(f"| {name} | {seconds:.1f} | {seconds / decoding:.3f} |")


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
