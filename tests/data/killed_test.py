"""A reader that is killed in the middle of an epoch reads on at the same image, to the bit."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest

from rrd_jax import data
from rrd_jax.data.images import partial_decoding
from tests.data import folders

# Shared memory of workers is counted in another module.
pytestmark = pytest.mark.xdist_group("workers")
_BATCH, _EACH = 4, 4  # an epoch has 5 steps
_PROGRAM = """
import json, sys
from absl import flags
from rrd_jax import data
from tests.data import killed_test

if __name__ == "__main__":
    flags.FLAGS(["reader"])  # Grain looks at its own
    fields, start = json.loads(sys.argv[1]), int(sys.argv[2])
    for line in killed_test.lines(fields, start):
        print(line, flush=True)
"""


def lines(fields, start, stop=10**6):
    """A line for each batch from a step on: its images by number, and a digest of all of it."""
    source = data.Source(
        "image_folder", image_size=48, resize=50, augment="random_resized", **fields
    )
    batches = data.load(source).train.train_batches(_BATCH, 5, start, stop)
    for batch in batches:
        digest = hashlib.sha256(batch["image"].tobytes() + batch["label"].tobytes()).hexdigest()
        yield json.dumps([batch["index"].tolist(), digest])


def _read_and_kill(program, fields, start, number):
    """So many lines of a reader of its own, which is killed while it reads on."""
    process = subprocess.Popen(
        [sys.executable, program, json.dumps(fields), str(start)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=os.getcwd(),
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    try:
        read = []
        for line in process.stdout:
            if line.startswith("["):  # and not of what is kept
                read.append(line.strip())
            if len(read) == number:
                return read
        raise AssertionError(f"it ended after {read}")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.long
def test_every_decoder_and_any_number_of_workers_reads_on_where_another_was_killed(tmp_path):
    rng, root = np.random.default_rng(0), tmp_path / "images"
    for i in range(22):
        coarse = rng.integers(0, 256, (5, 6, 3), np.uint8)
        image = cv2.resize(coarse, (140 + i, 110), interpolation=cv2.INTER_CUBIC)
        path = root / ("train" if i < 20 else "test") / "ab"[i % 2] / f"{i}.jpg"
        folders.put(path, cv2.imencode(".jpg", image)[1].tobytes())
    program = tmp_path / "reader.py"
    program.write_text(_PROGRAM)
    given = {"manual_dir": str(root), "dir": str(tmp_path), "keep": "off"}
    decoders = ["cv2", *(["nvimgcodec"] if partial_decoding.is_installed() else [])]
    readers = [{"decoder": name, "workers": n} for n in (0, 1, 3) for name in decoders]
    readers.append({"decoder": "auto", "keep": "auto"})
    read = []
    for fields in readers:
        read += _read_and_kill(program, given | fields, len(read), _EACH)
    assert read == list(lines(given | {"decoder": "cv2"}, 0, len(read)))
