"""Compares the speed of image input with torchvision, tf.data and DALI.

    python -m experiments.data_benchmark --torch_python=PYTHON --tf_python=PYTHON \
      --dali_python=PYTHON --sizes=500x375,320x240,1600x1200

Each peer has a separate interpreter, with torch and torchvision, with tensorflow, or with
nvidia-dali; peers without an interpreter are omitted. All readers read, decode and crop the same
synthetic photographs on the same cores, in turns. The table is written to <workdir>/data.md, all
values to <workdir>/data.json.
"""

import collections
import itertools
import json
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
from typing import Any

import cv2
import numpy as np
from absl import app, flags

from experiments.benchmark import machine
from rrd_jax import errors
from rrd_jax.run_folder import atomic_write
from rrd_jax.terminal import cli, path_flags, tables

_TORCH = flags.DEFINE_string("torch_python", "", "Python interpreter with torch and torchvision.")
_TF = flags.DEFINE_string("tf_python", "", "Python interpreter with tensorflow.")
_DALI = flags.DEFINE_string("dali_python", "", "Python interpreter with nvidia-dali.")
_READERS = flags.DEFINE_list("readers", [], "Readers to compare with rrd_jax; empty for all.")
_SIZES = flags.DEFINE_list("sizes", ["500x375"], "Widths and heights of the JPEGs.")
_CORES = flags.DEFINE_list("cores", ["1", "2"], "Numbers of cores to measure.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Rounds of all readers.", lower_bound=1)
_IMAGES = flags.DEFINE_integer("images", 320, "Number of images of each size.", lower_bound=2)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images per batch.", lower_bound=1)
_BATCHES = flags.DEFINE_integer("batches", 12, "Timed batches.", lower_bound=1)
_WARM_UP = flags.DEFINE_integer("warm_up", 4, "Batches before the timed batches.", lower_bound=1)
_WORKDIR = path_flags.define_path(
    "workdir", "runs/data-benchmark", "Folder of the images and results."
)

_SIZE = 224
_SCRIPTS = pathlib.Path(__file__).parent / "data_peers"
_OURS = "rrd_jax"
# Interpreter, script, and options of the task.
Reader = tuple[str, str, dict[str, Any]]
# The results of all rounds by (size, number of cores, name of the reader).
Results = dict[tuple[str, int, str], list[dict[str, Any]]]


def photograph(rng: np.random.Generator, height: int = 375, width: int = 500) -> np.ndarray:
    """Returns a uint8 image that JPEG compresses like a photograph: noise, shapes and grain."""
    image = np.full((height, width, 3), 128, np.float32)
    for cells in (4, 16, 64, 128):
        noise = rng.normal(size=(cells, cells, 3)) * 0.3 + rng.normal(size=(cells, cells, 1)) * 0.5
        large = cv2.resize(noise.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        image += large * (140 / cells**0.6)
    for _ in range(12):
        center = int(rng.integers(width)), int(rng.integers(height))
        axes = int(rng.integers(5, 90)), int(rng.integers(5, 90))
        color = rng.uniform(0, 255, 3).tolist()
        cv2.ellipse(image, center, axes, rng.uniform(0, 180), 0, 360, color, -1)
    image += rng.normal(size=(height, width, 1)) * rng.uniform(8, 20)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_images(folder: pathlib.Path, number: int, width: int = 500, height: int = 375) -> float:
    """Writes `number` images to train/, and an unused one to test/; returns the mean file size."""
    rng, sizes = np.random.default_rng(0), []
    for i in range(number + 1):
        path = folder / ("train" if i < number else "test") / str(i % 2) / f"{i:05}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
            path.write_bytes(
                cv2.imencode(".jpg", photograph(rng, height, width), quality)[1].tobytes()
            )
        sizes.append(path.stat().st_size)
    return statistics.fmean(sizes)


def measure(python: str, script: str, cores: int, task: dict[str, Any]) -> dict[str, Any]:
    """Runs a reader in a separate process on the first `cores` cores; returns its report.

    Raises:
      InputError: the process fails.
    """
    pinned = sorted(os.sched_getaffinity(0))[:cores]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    process = subprocess.run(
        [python, str(_SCRIPTS / script), json.dumps({**task, "cores": cores})],
        capture_output=True,
        text=True,
        env={**os.environ, **one_thread, "JAX_PLATFORMS": "cpu"},
        preexec_fn=lambda: os.sched_setaffinity(0, pinned),
    )
    if process.returncode:
        reason = (process.stderr.strip() or f"exit code {process.returncode}").split("\n")[-1]
        raise errors.InputError(f"{script} failed under {python}: {reason}")
    return json.loads(process.stdout.strip().split("\n")[-1])


def summary(results: Results) -> str:
    """Returns the table: medians over rounds, and medians of the ratios within a round."""
    rows = []
    for (size, cores, name), runs in results.items():
        ours, ratios = results[size, cores, _OURS], ["-", "-"]
        if name != _OURS:
            ratios = [
                f"{statistics.median(a[k] / b[k] for a, b in zip(ours, runs, strict=True)):.2f}"
                for k in ("wall", "cpu")
            ]
        speeds = [run["wall"] for run in runs]
        extremes = f"{min(speeds):.0f} to {max(speeds):.0f}"
        per_core = f"{_median(runs, 'cpu'):.0f}"
        rows.append(
            (size, cores, name, f"{_median(runs, 'wall'):.0f}", extremes, per_core, *ratios)
        )
    header = ("size", "cores", "reader", "images/s", "min to max", "images per CPU second")
    return tables.markdown((*header, "rrd_jax / reader", "ratio by CPU time"), rows)


def _median(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def _make_readers() -> dict[str, Reader]:
    readers = {
        _OURS: (sys.executable, "ours.py", {}),
        f"{_OURS} cv2": (sys.executable, "ours.py", {"decoder": "cv2"}),
        f"{_OURS} kept": (sys.executable, "ours.py", {"keep": "on"}),
        f"{_OURS} workers": (sys.executable, "ours.py", {"workers": True}),
    }
    if _TORCH.value:
        for variant, name in (("pil", "torchvision Pillow"), ("tensor", "torchvision tensors")):
            readers[name] = (_TORCH.value, "torchvision_peer.py", {"variant": variant})
    if _TF.value:
        readers["tf.data"] = (_TF.value, "tf_peer.py", {})
    if _DALI.value:
        readers["DALI"] = (_DALI.value, "dali_peer.py", {})
    if unknown := [name for name in _READERS.value if name not in readers]:
        raise errors.InputError(f"unknown reader '{unknown[0]}'; known: {', '.join(readers)}")
    selected = {_OURS, *(_READERS.value or readers)}
    return {name: reader for name, reader in readers.items() if name in selected}


def _job() -> None:
    workdir = pathlib.Path(_WORKDIR.value)
    available = len(os.sched_getaffinity(0))
    _check_flags(available)
    tasks, image_bytes, readers = {}, {}, _make_readers()
    for size in _SIZES.value:
        tasks[size], image_bytes[size] = _task(workdir / f"images{_IMAGES.value}_{size}", size)
        # Each reader prepares its files, and the images are loaded into the file cache.
        for python, script, options in readers.values():
            measure(
                python, script, available, {**tasks[size], "batches": 1, "warm_up": 1, **options}
            )
    load_before = os.getloadavg()[0]
    results = _measure_all(readers, tasks)
    load_after = os.getloadavg()[0]
    lines = _describe_machine(results, available, image_bytes, load_before, load_after)
    text = "\n".join([summary(results), "", *lines])
    atomic_write.write_text(workdir / "data.md", text + "\n")
    named_results = {
        f"{size}, {name}, {cores} cores": runs for (size, cores, name), runs in results.items()
    }
    atomic_write.write_json(workdir / "data.json", {"readers": named_results})
    print(f"\n{text}\n\nresults: {workdir / 'data.md'} and {workdir / 'data.json'}")


def _task(folder: pathlib.Path, size: str) -> tuple[dict[str, Any], float]:
    """Writes the images of a size; returns the task of the readers and the mean file size."""
    image_bytes = write_images(folder / "jpeg", _IMAGES.value, *map(int, size.split("x")))
    needed = (_WARM_UP.value + _BATCHES.value + 4) * _BATCH_SIZE.value
    task = {
        "folder": str(folder),
        "size": _SIZE,
        "batch_size": _BATCH_SIZE.value,
        "batches": _BATCHES.value,
        "warm_up": _WARM_UP.value,
        "passes": -(-needed // _IMAGES.value),
    }
    return task, image_bytes


def _check_flags(available: int) -> None:
    if invalid := [
        count for count in _CORES.value if not count.isdecimal() or not 1 <= int(count) <= available
    ]:
        raise errors.InputError(
            f"--cores has '{invalid[0]}'; use 1 to {available} (cores of this process)"
        )
    if invalid := [size for size in _SIZES.value if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", size)]:
        raise errors.InputError(f"--sizes has '{invalid[0]}'; use WIDTHxHEIGHT, such as 500x375")
    if _IMAGES.value < _BATCH_SIZE.value:
        raise errors.InputError(
            f"--images={_IMAGES.value} is less than --batch_size={_BATCH_SIZE.value}"
        )
    for flag in (_TORCH, _TF, _DALI):
        if flag.value and not shutil.which(flag.value):
            raise errors.InputError(f"--{flag.name}={flag.value} is not a program")


def _measure_all(readers: dict[str, Reader], tasks: dict[str, dict[str, Any]]) -> Results:
    results = collections.defaultdict(list)
    rounds = itertools.product(tasks, map(int, _CORES.value), range(_REPEATS.value), readers)
    for size, cores, i, name in rounds:
        python, script, options = readers[name]
        run = measure(python, script, cores, {**tasks[size], **options})
        results[size, cores, name].append(run)
        print(
            f"[{size}, {cores} cores, round {i + 1}] {name}: {run['wall']:.0f} images/s,"
            f" {run['cpu']:.0f} per CPU second, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    return results


def _describe_machine(
    results: Results,
    available: int,
    image_bytes: dict[str, float],
    load_before: float,
    load_after: float,
) -> list[str]:
    versions = dict(pair for runs in results.values() for pair in runs[0]["versions"].items())
    lines = [
        f"{available} cores, {platform.machine()}, {machine.processor()}; Python"
        f" {platform.python_version()}, {', '.join(f'{k} {v}' for k, v in versions.items())}.",
        f"{_IMAGES.value} JPEGs of {_describe_sizes(image_bytes)} on average; batches of"
        f" {_BATCH_SIZE.value}, {_BATCHES.value} timed after {_WARM_UP.value}, {_REPEATS.value}"
        f" rounds, medians. Load average {load_before:.1f} before and {load_after:.1f} after,"
        " including this benchmark.",
    ]
    omitted = [
        name
        for name, flag in (("torchvision", _TORCH), ("tf.data", _TF), ("DALI", _DALI))
        if not flag.value
    ]
    if omitted:
        lines.append(f"Omitted, because no interpreter was set: {', '.join(omitted)}.")
    return lines


def _describe_sizes(image_bytes: dict[str, float]) -> str:
    """Returns sizes and mean file sizes, such as "500x375 (91 kB), 320x240 (40 kB)"."""
    return ", ".join(f"{size} ({count / 1000:.0f} kB)" for size, count in image_bytes.items())


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_job, stopped="stopped; only the images were saved")


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
