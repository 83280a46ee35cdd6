"""Latency of exported files, measured in alternation, so that drift affects all files equally.

A separate process measures, because libraries choose their cores and threads when they start.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rrd_jax import errors
from rrd_jax.terminal import console

BATCHES = (1, 32)
# Number of warm-up calls, which compile and allocate.
_WARM_UP = 3
_MIN_ROUNDS, _MAX_ROUNDS = 5, 1000
# A function is called up to _REPEATS times per round, until its calls take _SHORT seconds in total.
# Before calls shorter than _SHORT seconds, an unmeasured call warms the CPU's caches.
_REPEATS, _SHORT = 10, 0.02


class File(NamedTuple):
    """An exported file to measure; `network` and `runtime` are its labels in tables."""

    network: str
    runtime: str
    format: str
    path: pathlib.Path


class Latency(NamedTuple):
    """The latency of a file.

    Attributes:
      network: label of the network, see `File`.
      runtime: label of the runtime, see `File`.
      cores: number of available cores.
      batch: images per call.
      median: median duration of a call in milliseconds.
      p90: 90th percentile of the duration in milliseconds.
      runs: number of measured calls.
    """

    network: str
    runtime: str
    cores: int
    batch: int
    median: float
    p90: float
    runs: int


def measure(
    files: Sequence[File], image_shape: tuple[int, int, int], seconds: float
) -> list[Latency]:
    """Measures each file on one core and on all cores, from uint8 images to logits on the host.

    Args:
      files: exported files.
      image_shape: (H, W, channels).
      seconds: duration of the measurement per batch size and number of cores.

    Raises:
      InputError: the measuring process failed.
    """
    latencies = []
    usable = cores()
    for number in dict.fromkeys([1, len(usable)]):
        job = {
            "files": [(f.network, f.runtime, f.format, str(f.path)) for f in files],
            "image_shape": image_shape,
            "seconds": seconds,
            "cores": usable[-number:],
        }
        label = "1 core" if number == 1 else f"{number} cores"
        console.progress("report", [f"latencies on {label}", f"{len(files)} files"])
        latencies += [Latency(*row) for row in _in_child(job, number)]
    return latencies


def cores() -> list[int]:
    """Returns the indices of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _in_child(job: Mapping[str, Any], cores: int) -> list[list[Any]]:
    env = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    if cores == 1:
        env |= dict.fromkeys(names, "1")
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {flags}".strip()
    else:
        env = {name: value for name, value in env.items() if name not in names}
    root = str(pathlib.Path(__file__).parent.parent.parent)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(prefix="rrd_jax_") as folder:
        result = pathlib.Path(folder) / "result.json"
        command = [sys.executable, "-m", "rrd_jax.comparison", str(result)]
        child = subprocess.run(
            command, input=json.dumps(job), capture_output=True, text=True, env=env, check=False
        )
        if child.returncode or not result.exists():
            message = child.stderr.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
            raise errors.InputError(f"the measurement of latencies failed: {message[0]}")
        return json.loads(result.read_text())


def run_job(job: Mapping[str, Any]) -> list[Latency]:
    """Measures the files of a job with each batch size; runs in the child process."""
    threads = len(job["cores"])
    opened = [_open(form, pathlib.Path(path), threads) for *_, form, path in job["files"]]
    latencies = []
    for batch in BATCHES:
        images = np.random.default_rng(0).integers(0, 256, (batch, *job["image_shape"]), np.uint8)
        calls = [functools.partial(runtime, images) for runtime in opened]
        measured = interleaved(calls, job["seconds"])
        for (network, runtime, *_), times in zip(job["files"], measured, strict=True):
            milliseconds = 1000 * np.asarray(times)
            median, p90 = (float(np.percentile(milliseconds, part)) for part in (50, 90))
            latencies.append(Latency(network, runtime, threads, batch, median, p90, len(times)))
    return latencies


def _open(form: str, path: pathlib.Path, threads: int) -> Callable[[np.ndarray], Any]:
    """Opens a file in this process, and returns a function of uint8 images."""
    if form != "stablehlo":
        from rrd_jax import exports

        return exports.get_format(form).open(path, threads)
    # The format's own reader starts a process, and its pipes would add to the latency.
    import jax.export

    call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    return lambda images: jax.device_get(call(images))


def interleaved(
    calls: Sequence[Callable[[], Any]],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Calls functions in rounds of alternating order, and returns the durations in seconds.

    Args:
      calls: functions that block until their result is available.
      seconds: duration after the warm-up, limited to 5 to 1,000 rounds.
      clock: returns the time in seconds.

    Returns:
      The durations of the measured calls, for each function.
    """
    for call in calls:
        for _ in range(_WARM_UP):
            call()
    times: list[list[float]] = [[] for _ in calls]
    order, end = list(range(len(calls))), clock() + seconds
    for number in range(_MAX_ROUNDS):
        if number >= _MIN_ROUNDS and clock() >= end:
            break
        for i in order:
            if not times[i] or times[i][-1] < _SHORT:
                calls[i]()
            times[i] += _time(calls[i], clock)
        order.reverse()
    return times


def _time(call: Callable[[], Any], clock: Callable[[], float]) -> list[float]:
    """Returns the duration in seconds of one call, or of several short calls."""
    times: list[float] = []
    while not times or (len(times) < _REPEATS and sum(times) < _SHORT):
        start = clock()
        call()
        times.append(clock() - start)
    return times
