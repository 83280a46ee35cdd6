"""The streamed input of rrd_jax, as a run opens it; run by experiments.data_benchmark."""

import contextlib
import importlib.metadata
import json
import pathlib
import sys

import cv2
import grain
import timing
from absl import flags

from rrd_jax import data


def _decoder_version() -> dict[str, str]:
    """Returns the version of the decoder of image regions; {} if it is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return {"nvimgcodec": importlib.metadata.version("nvidia-nvimgcodec-cu12")}
    return {}


def _main() -> None:
    # Grain requires parsed flags before it starts workers.
    flags.FLAGS(sys.argv[:1])
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
    train = data.load(source).train
    # The first epoch fills the image cache and is not timed.
    skipped = len(train) // task["batch_size"] if source.keep == "on" else 0
    # Batches after the timed batches keep the prefetching at work until the end.
    last = skipped + task["warm_up"] + task["batches"]
    batches = train.train_batches(task["batch_size"], 0, 0, last + 8)
    versions = {"grain": grain.__version__, "OpenCV": cv2.__version__, **_decoder_version()}
    batch = timing.report(lambda: next(batches), task, versions, skipped)
    batches.close()
    assert batch["image"].shape[1:] == (task["size"], task["size"], 3)


if __name__ == "__main__":
    _main()
