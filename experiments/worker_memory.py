"""Measures the memory of worker processes that read an array in a memory-mapped file.

    python -m experiments.worker_memory --file=images.npy --workers=2

FILE is created with --images random images, unless it exists. The memory is the largest sum of the
anonymous memory of this process and its workers: pages of the file, which all processes share and
the system can drop, are not counted. It runs on Linux only.
"""

import os
import pathlib
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
from absl import app, flags

from rrd_jax import data

_FILE = flags.DEFINE_string("file", None, "The file of the array.", required=True)
_IMAGES = flags.DEFINE_integer("images", 20_000, "Number of images of 224 pixels, 150 kB each.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Number of worker processes.")
_BATCHES = flags.DEFINE_integer("batches", 6, "Batches of 64 images to read.")
_LIMIT = flags.DEFINE_float("limit", 0.0, "GB at which the measurement is ended; 0 for no limit.")

_SHAPE = (224, 224, 3)
_CHUNK = 200
_THIS = os.getpid()


def _create(path: pathlib.Path) -> None:
    shape = (_IMAGES.value, *_SHAPE)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    for i in range(0, len(images), _CHUNK):
        chunk = images[i : i + _CHUNK]
        chunk[...] = np.random.default_rng(i).integers(0, 256, chunk.shape, np.uint8)
    images.flush()


def _processes(pid: int) -> Iterator[int]:
    yield pid
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            yield from _processes(int(child))


def _anonymous_gb() -> float:
    total = 0
    for pid in _processes(_THIS):
        try:
            lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        # The process has ended.
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))
    return total / 1e6


def main(_: list[str]) -> None:
    """Prints the largest memory and the time of reading some batches."""
    path = pathlib.Path(_FILE.value)
    if not path.exists():
        _create(path)
    images = np.load(path, mmap_mode="r")
    fields = {"feed": "streamed", "workers": _WORKERS.value, "keep": "off", "image_size": 224}
    splits = {"train_split": "train[:90%]", "test_split": "train[90%:]"}
    source = data.Source(**fields, **splits)
    dataset = data.from_sources((images, np.arange(len(images)) % 10), None, source)
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.1):
            peak = max(peak, _anonymous_gb())
            if 0 < _LIMIT.value < peak:
                print(f"more than {_LIMIT.value:g} GB", flush=True)
                for pid in reversed(list(_processes(_THIS))):
                    os.kill(pid, signal.SIGKILL)

    start = time.monotonic()
    watcher = threading.Thread(target=watch)
    watcher.start()
    before, first = _anonymous_gb(), 0.0
    for _ in dataset.train.train_batches(64, 0, 0, _BATCHES.value):
        first = first or time.monotonic() - start
    seconds = time.monotonic() - start
    done.set()
    watcher.join()
    print(
        f"{images.nbytes / 1e9:.2f} GB in the file, {_WORKERS.value} workers: {before:.2f} GB"
        f" before, {peak:.2f} GB at most; first batch after {first:.1f} s,"
        f" {_BATCHES.value} batches in {seconds:.1f} s"
    )


if __name__ == "__main__":
    app.run(main)
