"""Our streamed input, as train.py opens it; run by experiments/data_benchmark.py."""

import contextlib
import importlib.metadata
import json
import pathlib
import sys
import time

import cpu
import cv2
import grain
from absl import flags

from rrd_jax import data


def _decoder() -> dict[str, str]:
    """The version of what decodes parts, where it is installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return {"nvimgcodec": importlib.metadata.version("nvidia-nvimgcodec-cu12")}
    return {}


def _main() -> None:
    flags.FLAGS(sys.argv[:1])  # which Grain looks at before it starts workers
    task = json.loads(sys.argv[1])
    source = data.Source(
        "image_folder",
        dir=str(pathlib.Path(task["folder"], "tfds")),
        manual_dir=str(pathlib.Path(task["folder"], "jpeg")),
        image_size=task["size"],
        resize=256,
        augment="random_resized",
        decoder=task.get("decoder", "auto"),
        keep=task.get("keep", "off"),
        workers=task["cores"] if task.get("workers") else 0,
    )
    first, last = task["warm_up"], task["warm_up"] + task["batches"]
    train = data.load(source).train
    if source.keep == "on":  # what is timed comes after an epoch
        first, last = (n + len(train) // task["batch_size"] for n in (first, last))
    # Goes on beyond what is timed: work ahead is then in hand at both ends.
    batches = train.train_batches(task["batch_size"], 0, 0, last + 8)
    for i in range(last):
        if i == first:
            wall, used = time.perf_counter(), cpu.seconds()
        batch = next(batches)
    wall, used = time.perf_counter() - wall, cpu.seconds() - used
    batches.close()
    assert batch["image"].shape[1:] == (task["size"], task["size"], 3)
    images = task["batches"] * task["batch_size"]
    result = {
        "wall": images / wall,
        "cpu": images / used,
        "versions": {"grain": grain.__version__, "OpenCV": cv2.__version__, **_decoder()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    _main()
