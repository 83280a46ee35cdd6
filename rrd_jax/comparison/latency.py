"""How long files take for a batch of images: all of them in turn, so that drift hits all alike.

A process of its own measures, since one core and the threads of libraries are chosen at the start.
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
_WARM_UP = 3  # calls; the first ones compile, and allocate
_ROUNDS = (5, 1000)  # the least and the most, whatever the time
_REPEATS = 10  # of short calls, when it is their turn
_SHORT = 0.02  # seconds; before a shorter call, one that is not counted wakes what it needs


class File(NamedTuple):
    """A file to measure: `network` and `runtime` as a table calls them, `format` and `path`."""

    network: str
    runtime: str
    format: str
    path: pathlib.Path


class Latency(NamedTuple):
    """Of a file.

    Attributes:
      network: as its File has it.
      runtime: likewise.
      cores: that it could use.
      batch: images in a call.
      median: milliseconds of a call.
      p90: milliseconds that nine of ten calls stay below.
      runs: calls that were measured.
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
    """The latency of each file, on one core and on all, from uint8 images to logits on the host.

    Args:
      files: exported ones.
      image_shape: (H, W, channels).
      seconds: about, for each size of batches on one core and on all.

    Raises:
      InputError: the process that measures fails.
    """
    found = []
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
        found += [Latency(*row) for row in _in_child(job, number)]
    return found


def cores() -> list[int]:
    """The numbers of the cores that this process may use."""
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
            told = child.stderr.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
            raise errors.InputError(f"the latencies cannot be measured: {told[0]}")
        return json.loads(result.read_text())


def run_job(job: Mapping[str, Any]) -> list[Latency]:
    """What the child does: opens the files, and measures them with each size of batches."""
    threads = len(job["cores"])
    opened = [_open(form, pathlib.Path(path), threads) for *_, form, path in job["files"]]
    found = []
    for batch in BATCHES:
        images = np.random.default_rng(0).integers(0, 256, (batch, *job["image_shape"]), np.uint8)
        calls = [functools.partial(runtime, images) for runtime in opened]
        measured = interleaved(calls, job["seconds"])
        for (network, runtime, *_), times in zip(job["files"], measured, strict=True):
            milliseconds = 1000 * np.asarray(times)
            median, p90 = (float(np.percentile(milliseconds, part)) for part in (50, 90))
            found.append(Latency(network, runtime, threads, batch, median, p90, len(times)))
    return found


def _open(form: str, path: pathlib.Path, threads: int) -> Callable[[np.ndarray], Any]:
    """A function of uint8 images, in this process."""
    if form != "stablehlo":
        from rrd_jax import exports

        return exports.get(form).open(path, threads)
    import jax.export  # whose reader has a process of its own, and would measure pipes too

    call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    return lambda images: jax.device_get(call(images))


def interleaved(
    calls: Sequence[Callable[[], Any]],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Seconds of calls of each function, in turn, every other round in the opposite order.

    Args:
      calls: functions that return when all is done.
      seconds: to go on for, after the warm-up; at least 5 rounds are made, at most 1 000.
      clock: seconds.
    """
    for call in calls:
        for _ in range(_WARM_UP):
            call()
    times: list[list[float]] = [[] for _ in calls]
    places, end = list(range(len(calls))), clock() + seconds
    least, most = _ROUNDS
    for number in range(most):
        if number >= least and clock() >= end:
            break
        for place in places:
            if not times[place] or times[place][-1] < _SHORT:
                calls[place]()
            times[place] += _timed(calls[place], clock)
        places.reverse()
    return times


def _timed(call: Callable[[], Any], clock: Callable[[], float]) -> list[float]:
    """Seconds of one call, or of several short ones."""
    times: list[float] = []
    while not times or (len(times) < _REPEATS and sum(times) < _SHORT):
        start = clock()
        call()
        times.append(clock() - start)
    return times
