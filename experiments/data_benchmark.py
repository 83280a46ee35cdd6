"""How fast training images are read, decoded and cropped, beside torchvision, tf.data and DALI.

    python -m experiments.data_benchmark --torch_python=PYTHON --tf_python=PYTHON \
      --dali_python=PYTHON --sizes=500x375,320x240,1600x1200

Each peer has its own interpreter, with torch and torchvision, with tensorflow, or with
nvidia-dali; one that is not given is left out. All read the same synthetic photographs, pinned to
the same cores, in turns. The table goes to <workdir>/data.md, every figure to <workdir>/data.json.
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
from rrd_jax.terminal import cli, tables

_TORCH = flags.DEFINE_string("torch_python", "", "An interpreter with torch and torchvision.")
_TF = flags.DEFINE_string("tf_python", "", "An interpreter with tensorflow.")
_DALI = flags.DEFINE_string("dali_python", "", "An interpreter with nvidia-dali.")
_READERS = flags.DEFINE_list("readers", [], "Readers that are measured beside ours; all if empty.")
_SIZES = flags.DEFINE_list("sizes", ["500x375"], "Widths and heights of the JPEGs.")
_CORES = flags.DEFINE_list("cores", ["1", "2"], "Numbers of cores.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Rounds over all.", lower_bound=1)
_IMAGES = flags.DEFINE_integer("images", 320, "Images of a size in the set.", lower_bound=2)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images a batch.", lower_bound=1)
_BATCHES = flags.DEFINE_integer("batches", 12, "Batches that are timed.", lower_bound=1)
_WARM_UP = flags.DEFINE_integer("warm_up", 4, "Batches before these.", lower_bound=1)
_WORKDIR = flags.DEFINE_string("workdir", "runs/data-benchmark", "Images and results.")

_SIZE = 224
_PEERS = pathlib.Path(__file__).parent / "data_peers"
_OURS = "rrd_jax"
Reader = tuple[str, str, dict[str, Any]]  # interpreter, script, options of the task
# By size, number of cores and reader.
Results = dict[tuple[str, int, str], list[dict[str, Any]]]


def photograph(rng: np.random.Generator, height: int = 375, width: int = 500) -> np.ndarray:
    """Noise of many scales, shapes with edges and grain: JPEG finds it as hard as a photograph."""
    image = np.full((height, width, 3), 128, np.float32)
    for cells in (4, 16, 64, 128):
        noise = rng.normal(size=(cells, cells, 3)) * 0.3 + rng.normal(size=(cells, cells, 1)) * 0.5
        large = cv2.resize(noise.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        image += large * (140 / cells**0.6)
    for _ in range(12):
        center = int(rng.integers(width)), int(rng.integers(height))
        axes = int(rng.integers(5, 90)), int(rng.integers(5, 90))
        colour = rng.uniform(0, 255, 3).tolist()
        cv2.ellipse(image, center, axes, rng.uniform(0, 180), 0, 360, colour, -1)
    image += rng.normal(size=(height, width, 1)) * rng.uniform(8, 20)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_images(folder: pathlib.Path, number: int, width: int = 500, height: int = 375) -> float:
    """Writes train/ of `number` photographs, and a test/ that goes unused; returns mean bytes."""
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
    """Runs a reader in a process of its own that sees `cores` cores, and returns its figures."""
    pinned = sorted(os.sched_getaffinity(0))[:cores]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [python, str(_PEERS / script), json.dumps({**task, "cores": cores})],
        capture_output=True,
        text=True,
        env={**os.environ, **one_thread, "JAX_PLATFORMS": "cpu"},
        preexec_fn=lambda: os.sched_setaffinity(0, pinned),
    )
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").split("\n")[-1]
        raise errors.InputError(f"{script} failed under {python}: {reason}")
    return json.loads(done.stdout.strip().split("\n")[-1])


def summary(results: Results) -> str:
    """Medians over the rounds; ratios are medians over rounds, each of neighbours in time."""
    rows = []
    for (size, cores, name), runs in results.items():
        ours, ratios = results[size, cores, _OURS], ["-", "-"]
        if name != _OURS:
            ratios = [
                f"{statistics.median(a[k] / b[k] for a, b in zip(ours, runs, strict=True)):.2f}"
                for k in ("wall", "cpu")
            ]
        walls = [run["wall"] for run in runs]
        span = f"{min(walls):.0f} to {max(walls):.0f}"
        per_core = f"{_median(runs, 'cpu'):.0f}"
        rows.append((size, cores, name, f"{_median(runs, 'wall'):.0f}", span, per_core, *ratios))
    header = ("size", "cores", "reader", "images/s", "lowest to highest", "images a CPU second")
    return tables.markdown((*header, "ours / it", "the same by CPU time"), rows)


def _median(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def _readers() -> dict[str, Reader]:
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
        raise errors.InputError(f"--readers has '{unknown[0]}'; known: {', '.join(readers)}")
    wanted = {_OURS, *(_READERS.value or readers)}
    return {name: reader for name, reader in readers.items() if name in wanted}


def _job() -> None:
    workdir = pathlib.Path(_WORKDIR.value)
    available = len(os.sched_getaffinity(0))
    _check_flags(available)
    tasks, image_bytes, readers = {}, {}, _readers()
    for size in _SIZES.value:
        tasks[size], image_bytes[size] = _task(workdir / f"images{_IMAGES.value}_{size}", size)
        # Prepares what each reads from, and warms the cache of files.
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
    plain = {
        f"{size}, {name}, {cores} cores": runs for (size, cores, name), runs in results.items()
    }
    atomic_write.write_json(workdir / "data.json", {"readers": plain})
    print(f"\n{text}\n\nkept in {workdir / 'data.md'} and {workdir / 'data.json'}")


def _task(folder: pathlib.Path, size: str) -> tuple[dict[str, Any], float]:
    """What the readers of a size are told, and the mean bytes of its files, which are written."""
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
    if bad := [c for c in _CORES.value if not c.isdecimal() or not 1 <= int(c) <= available]:
        raise errors.InputError(f"--cores has '{bad[0]}', but this process has 1 to {available}")
    if bad := [size for size in _SIZES.value if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", size)]:
        raise errors.InputError(f"--sizes has '{bad[0]}', but wants sizes such as 500x375")
    if _IMAGES.value < _BATCH_SIZE.value:
        raise errors.InputError(f"--images={_IMAGES.value} do not fill --batch_size")
    for flag in (_TORCH, _TF, _DALI):
        if flag.value and not shutil.which(flag.value):
            raise errors.InputError(f"--{flag.name}={flag.value} is no program")


def _measure_all(readers: dict[str, Reader], tasks: dict[str, dict[str, Any]]) -> Results:
    results = collections.defaultdict(list)
    rounds = itertools.product(tasks, map(int, _CORES.value), range(_REPEATS.value), readers)
    for size, cores, i, name in rounds:
        python, script, options = readers[name]
        run = measure(python, script, cores, {**tasks[size], **options})
        results[size, cores, name].append(run)
        print(
            f"[{size}, {cores} cores, round {i + 1}] {name}: {run['wall']:.0f} images/s,"
            f" {run['cpu']:.0f} a CPU second, load {os.getloadavg()[0]:.1f}",
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
        f"{_IMAGES.value} JPEGs of {_described(image_bytes)} on average; batches of"
        f" {_BATCH_SIZE.value}, {_BATCHES.value} timed after {_WARM_UP.value}, {_REPEATS.value}"
        f" rounds, medians. Load {load_before:.1f} before, {load_after:.1f} after, ours included.",
    ]
    left_out = [
        name
        for name, flag in (("torchvision", _TORCH), ("tf.data", _TF), ("DALI", _DALI))
        if not flag.value
    ]
    if left_out:
        lines.append(f"Left out, no interpreter given: {', '.join(left_out)}.")
    return lines


def _described(image_bytes: dict[str, float]) -> str:
    """Such as "500x375 (91 kB), 320x240 (40 kB)"."""
    return ", ".join(f"{size} ({count / 1000:.0f} kB)" for size, count in image_bytes.items())


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_job, stopped="stopped; nothing is kept but the images")


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
