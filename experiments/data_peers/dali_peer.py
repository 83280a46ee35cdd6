"""A CPU pipeline of NVIDIA DALI that decodes only the crop; run by experiments.data_benchmark."""

import json
import os
import sys

import timing
from nvidia import dali
from nvidia.dali import fn, types


@dali.pipeline_def
def _pipeline(folder: str, size: int) -> tuple:
    encoded, label = fn.readers.file(file_root=folder, random_shuffle=True, initial_fill=256)
    part = fn.decoders.image_random_crop(
        encoded,
        device="cpu",
        output_type=types.RGB,
        random_area=(0.08, 1.0),
        random_aspect_ratio=(3 / 4, 4 / 3),
        num_attempts=10,
    )
    scaled = fn.resize(
        part, size=(size, size), interp_type=types.INTERP_LINEAR, antialias=False, device="cpu"
    )
    return fn.flip(scaled, horizontal=fn.random.coin_flip(), device="cpu"), label


def _main() -> None:
    task = json.loads(sys.argv[1])
    pipeline = _pipeline(
        os.path.join(task["folder"], "jpeg", "train"),
        task["size"],
        batch_size=task["batch_size"],
        num_threads=task["cores"],
        device_id=None,
        prefetch_queue_depth=2,
    )
    pipeline.build()
    images, _ = timing.report(pipeline.run, task, {"DALI": dali.__version__})
    batch = images.as_array()
    assert batch.shape == (task["batch_size"], task["size"], task["size"], 3)
    assert batch.dtype.name == "uint8"


if __name__ == "__main__":
    _main()
