"""What images without labels cost: the index of a folder of many, and a teacher that is asked once.

    python -m experiments.unlabelled_costs --files=200000 --steps=60

Small JPEGs are made in folders in folders. The first start looks at each, the second only asks what
has changed. Then a student learns from them (MoCo-v2's augmentation, two views of an image): beside
a teacher that runs, and beside one whose embeddings lie in memory, and in a file; the three take
turns. The table goes to <workdir>/unlabelled_costs.md, a row as it is known.
"""

import datetime
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for a start by path, without -m

from experiments import machine
from rrd_jax.terminal import cli, tables

_FILES = flags.DEFINE_integer("files", 200_000, "Images of the folder.", lower_bound=100)
_STEPS = flags.DEFINE_integer("steps", 60, "Of each run, an epoch; batches of 64.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Turns.", lower_bound=1)
_SIDE = flags.DEFINE_integer("side", 32, "Pixels of the images.", lower_bound=8)
_WORKDIR = flags.DEFINE_string("workdir", "runs/unlabelled-costs", "Results, and a folder.")
_NETWORKS = "resnet32x4-resnet8x4"
_CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "unlabelled.py"
_VARIANTS = {
    "the teacher runs": {"cache": "off"},
    "remembered, device": {"cache": "on", "cache_place": "device"},
    "remembered, file": {"cache": "on", "cache_place": "file"},
}
# A process of its own, for the memory that it takes.
_OPEN = """
import sys, time
from rrd_jax import data
root, index = sys.argv[1:]
start = time.perf_counter()
source = data.Source("image_folder", dir=index, manual_dir=root, feed="streamed", use_labels=False)
opened = data.load(source)
print(len(opened.train) + len(opened.test), time.perf_counter() - start)
"""


def _make(root: pathlib.Path, count: int, side: int) -> None:
    """Images of smooth noise, a hundred to a folder, ten of these to another; no two are equal."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (64, 8, 8, 3), np.uint8)
    large = [cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC) for image in small]
    encoded = [cv2.imencode(".jpg", image)[1].tobytes() for image in large]
    for i in range(count):
        folder = root / f"{i // 1000}" / f"{i // 100 % 10}"
        if i % 100 == 0:
            folder.mkdir(parents=True, exist_ok=True)
        # Bytes after the end of a JPEG are not read.
        (folder / f"{i}.jpg").write_bytes(encoded[i % 64] + i.to_bytes(4, "big"))


def _open(root: pathlib.Path, index: pathlib.Path) -> tuple[int, float]:
    """Returns (images, seconds of opening the folder)."""
    given = [sys.executable, "-c", _OPEN, str(root), str(index)]
    done = subprocess.run(given, check=True, stdout=subprocess.PIPE, text=True)
    images, seconds = done.stdout.split("\n")[-2].split()
    return int(images), float(seconds)


def _teacher(folder: pathlib.Path) -> None:
    """Random weights of the teacher: what they cost does not depend on what they are."""
    import jax

    from rrd_jax import checkpoints, networks

    name, _ = _NETWORKS.split("-")
    shape = (_SIDE.value, _SIDE.value, 3)
    network = networks.create(name, num_classes=10)
    variables = jax.jit(lambda: networks.init(network, jax.random.key(0), shape))()
    about = {"model": name, "num_classes": 10, "image_shape": list(shape)}
    checkpoints.save_network(folder, jax.tree.map(np.asarray, variables), about)


def _rate(root: pathlib.Path, home: pathlib.Path, fields: dict[str, str]) -> float:
    """Images a second in the last epoch of a run."""
    with tempfile.TemporaryDirectory() as workdir:
        given = {
            "data.manual_dir": root,
            "data.dir": home / "index",
            "data.max_images": int(64 * _STEPS.value / 0.9) + 64,
            "data.image_size": _SIDE.value,
            "data.augment": "resized_crop",
            "data.feed": "resident",
            "data.views.count": 2,
            "eval.proof": False,
            "teacher.checkpoint": home / "teacher",
            "teacher.image_size": _SIDE.value,
            "train.epochs": 3,
            "train.batch_size": 64,
            "objectives.rrd.queue_size": 1024,
            **{f"teacher.{name}": value for name, value in fields.items()},
        }
        command = [sys.executable, "-m", "rrd_jax.main", f"--workdir={workdir}"]
        command += [f"--config={_CONFIG}:{_NETWORKS},moco"]
        command += [f"--config.{name}={value}" for name, value in given.items()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return json.loads(rows[-1])["images_per_second"]


def _write(path: pathlib.Path, written: list[str]) -> None:
    cores = len(os.sched_getaffinity(0))
    command = machine.command("experiments.unlabelled_costs")
    head = (
        "# What images without labels cost\n\n"
        f"`{command}`, {datetime.date.today()}, {machine.processor()}, {cores} cores,"
        f" {machine.versions('jax', 'jaxlib')}.\n"
    )
    path.write_text("\n\n".join([head.rstrip(), *written]) + "\n")
    print(path.read_text())


def _job() -> None:
    home = pathlib.Path(_WORKDIR.value)
    home.mkdir(parents=True, exist_ok=True)
    path, written = home / "unlabelled_costs.md", []
    with tempfile.TemporaryDirectory() as folder:
        root, here = pathlib.Path(folder) / "images", pathlib.Path(folder)
        start = time.perf_counter()
        _make(root, _FILES.value, _SIDE.value)
        print(f"{_FILES.value:,} images made in {time.perf_counter() - start:.0f} s")
        rows = []
        for name in ("first start", "second start"):
            images, seconds = _open(root, here / "index")
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
            rows.append([name, f"{images:,}", f"{seconds:.1f}", f"{peak:.2f}"])
        header = ["index of a folder", "images", "seconds", "largest memory of it, GB"]
        written.append(tables.markdown(header, rows))
        _write(path, written)
        _teacher(here / "teacher")
        rates = {name: [] for name in _VARIANTS}
        for _ in range(_ROUNDS.value):
            for name, fields in _VARIANTS.items():
                rates[name].append(_rate(root, here, fields))
        base, rows = rates["the teacher runs"], []
        for name, found in rates.items():
            ratios = [a / b for a, b in zip(found, base, strict=True)]
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            rows.append([name, f"{statistics.median(ratios):.2f}", spread])
        header = [f"{_NETWORKS}, {_SIDE.value} pixels, a step of 64", "images/s, times", "turns"]
        written.append(tables.markdown(header, rows))
        _write(path, written)


def main(argv: list[str]) -> None:
    """Prints and keeps tables."""
    del argv
    cli.guard(_job)


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
