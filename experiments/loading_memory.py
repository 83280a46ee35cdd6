"""Measures the peak of host memory while a frozen teacher is loaded.

    python -m experiments.loading_memory --model=vit_large_patch14_dinov2

writes random weights of a network in timm's layout, loads them as the frozen bfloat16 teacher of a
ResNet-8 in a new process on a CPU, and prints the peak of its memory: anonymous memory, without
pages of files, which the kernel drops when it needs their memory. On a CPU, the weights on the
device are host memory too. The columns of the row, in GB: the file; the process before loading;
the weights on the device; the peak; and the peak without the process and without the weights on
the device, which is what a host with an accelerator needs.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import threading

from absl import app, flags

_MODEL = flags.DEFINE_string("model", "vit_large_patch14_dinov2", "Name of the network.")
_SHARDS = flags.DEFINE_integer("shards", 1, "Number of files with an index.", lower_bound=1)
_LOADED = flags.DEFINE_string("loaded", "", "File to load in this process.")


def write(folder: pathlib.Path, model: str, shards: int) -> pathlib.Path:
    """Writes random float32 weights; returns the file, or the folder of several files."""
    import json

    import jax
    import numpy as np
    import safetensors.numpy

    from rrd_jax import networks, weights

    network = networks.create(model, 0)
    shapes = networks.summarize(network, (224, 224, 1)).variables
    generator = np.random.default_rng(0)

    def values(leaf):
        return generator.standard_normal(leaf.shape, np.float32) * np.float32(0.02)

    state = weights.to_torch(model, jax.tree.map(values, shapes))
    names = sorted(state)
    index = {}
    for i in range(shards):
        name = f"model-{i + 1:05}-of-{shards:05}.safetensors" if shards > 1 else "model.safetensors"
        part = {key: np.ascontiguousarray(state[key]) for key in names[i::shards]}
        safetensors.numpy.save_file(part, folder / name)
        index |= dict.fromkeys(part, name)
    if shards == 1:
        return folder / "model.safetensors"
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return path


def load(path: pathlib.Path, model: str) -> str:
    """Loads a teacher; returns a row with its memory on the device and the peak of the process."""
    import runpy

    import jax

    from rrd_jax.config import parse
    from rrd_jax.jobs import job
    from rrd_jax.teacher import frozen

    config = runpy.run_path("configs/digits.py")["get_config"](f"smoke,{model}-resnet8,rrd")
    fields = {"teacher.checkpoint": str(path), "teacher.image_size": 224}
    config.update_from_flattened_dict(fields | {"teacher.dtype": "bfloat16", "baseline": False})
    plan = parse(config)
    setting = job.prepare(plan.student)
    before = _anonymous()
    peaks, is_done = [before], threading.Event()

    def watch():
        while not is_done.wait(0.002):
            peaks.append(_anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    (teacher,) = plan.teachers
    network = frozen.load(
        teacher.network,
        path,
        setting.dataset,
        setting.mesh,
        plan.student.training,
        teaching=teacher.teaching,
    )
    placed = sum(leaf.nbytes for leaf in jax.tree.leaves(network.variables)) / 1e9
    is_done.set()
    watcher.join()
    peak = max(peaks)
    columns = (_size(path), before, placed, peak, peak - before - placed)
    return f"| {model} | " + " | ".join(f"{value:.2f}" for value in columns) + " |"


def _size(path: pathlib.Path) -> float:
    """Returns the GB of the weight files in a folder."""
    return sum(file.stat().st_size for file in path.parent.glob("*.safetensors")) / 1e9


def _anonymous() -> float:
    """Returns the GB of this process's memory that holds no pages of files."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024 / 1e9


def main(_) -> None:
    """Writes a file, and loads it in a new process."""
    model = _MODEL.value
    if _LOADED.value:
        print(load(pathlib.Path(_LOADED.value), model))
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        path = write(pathlib.Path(folder), model, _SHARDS.value)
        command = [sys.executable, "-m", "experiments.loading_memory"]
        subprocess.run([*command, f"--model={model}", f"--loaded={path}"], check=True)


if __name__ == "__main__":
    app.run(main)
