"""Readers that resume bit-identically after they were killed in the middle of an epoch."""

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

# workers_test counts shared memory, so these modules must not run at the same time.
pytestmark = pytest.mark.xdist_group("workers")
# An epoch has 5 steps; each reader is killed after 4 steps.
_BATCH_SIZE, _STEPS = 4, 4
_PROGRAM = """
import json, sys
from absl import flags
from rrd_jax import data
from tests.data import killed_test

if __name__ == "__main__":
    # Grain reads its own absl flags.
    flags.FLAGS(["reader"])
    fields, start = json.loads(sys.argv[1]), int(sys.argv[2])
    for line in killed_test.batch_lines(fields, start):
        print(line, flush=True)
"""


def batch_lines(fields, start, stop=10**6):
    """Yields one JSON line per batch of the steps [start, stop): image indices and a digest."""
    source = data.Source(
        "image_folder", image_size=48, resize=50, augment="random_resized", **fields
    )
    batches = data.load(source).train.train_batches(_BATCH_SIZE, 5, start, stop)
    for batch in batches:
        digest = hashlib.sha256(batch["image"].tobytes() + batch["label"].tobytes()).hexdigest()
        yield json.dumps([batch["index"].tolist(), digest])


def _read_and_kill(program, fields, start, number):
    """Returns the first `number` lines of a reader process, then kills the process."""
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
            # The reader also prints a line about the image cache.
            if line.startswith("["):
                read.append(line.strip())
            if len(read) == number:
                return read
        raise AssertionError(f"the reader ended after {read}")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.long
def test_readers_with_any_decoder_and_worker_count_resume_after_a_kill(tmp_path):
    rng, root = np.random.default_rng(0), tmp_path / "images"
    for i in range(22):
        coarse = rng.integers(0, 256, (5, 6, 3), np.uint8)
        image = cv2.resize(coarse, (140 + i, 110), interpolation=cv2.INTER_CUBIC)
        path = root / ("train" if i < 20 else "test") / "ab"[i % 2] / f"{i}.jpg"
        folders.put(path, cv2.imencode(".jpg", image)[1].tobytes())
    program = tmp_path / "reader.py"
    program.write_text(_PROGRAM)
    options = {"manual_dir": str(root), "dir": str(tmp_path), "keep": "off"}
    decoders = ["cv2", *(["nvimgcodec"] if partial_decoding.is_installed() else [])]
    readers = [{"decoder": name, "workers": n} for n in (0, 1, 3) for name in decoders]
    readers.append({"decoder": "auto", "keep": "auto"})
    read = []
    for fields in readers:
        read += _read_and_kill(program, options | fields, len(read), _STEPS)
    assert read == list(batch_lines(options | {"decoder": "cv2"}, 0, len(read)))
