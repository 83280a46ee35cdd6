"""Measures one curve of how cost grows; experiments/growth.py starts this program for each.

    python -m experiments.growth_curves NAME ROUNDS [smoke]

It prints JSON: by what a point is of (batch size, rows, ...), the seconds of each round.
"""

import functools
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import networks, parallel, relational_loss
from rrd_jax.config import limit, parse
from rrd_jax.jobs import program
from rrd_jax.objectives.batch import Batch
from rrd_jax.teacher import fold
from rrd_jax.training import recipe

_CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
_SHAPE, _CLASSES, _EXAMPLES = (32, 32, 3), 100, 512
_QUEUE, _DIM, _BATCH = 16_384, 128, 32
_LONG = 1.0  # seconds of a round, which holds at least one call

Work = Callable[[], None]


def _step(
    student: str = "resnet8", batch_size: int = _BATCH, devices: int = 1, *, remembered: bool
) -> Work:
    """A step of rrd+kd behind resnet8x4, compiled and warm.

    Args:
      student: a network's name.
      batch_size: B, of all devices.
      devices: that share the step.
      remembered: whether the step reads the teacher's embeddings, or runs it.
    """
    get_config = runpy.run_path(str(_CONFIGS / "cifar100.py"))["get_config"]
    config = get_config(f"resnet8x4-{student},rrd+kd")
    config.train.batch_size, config.dtype = batch_size, "float32"
    limit(config, queue_size=_QUEUE)
    job = parse(config)
    training = job.student.training
    teacher = job.teachers[0].network.create(_CLASSES)
    mesh = parallel.make_mesh(jax.devices()[:devices])
    built = program.build(
        recipe.create(training, _CLASSES, _EXAMPLES),
        mesh,
        _SHAPE,
        _EXAMPLES // batch_size,
        resident=False,
        teacher=teacher,
        teacher_is_cached=remembered,
    )
    variables = networks.init(teacher, jax.random.key(1), _SHAPE)
    taught = fold.fold(teacher, variables, _SHAPE)
    if remembered:
        width = networks.summarize(teacher, _SHAPE).outputs.embedding.shape[-1]
        rows = np.random.default_rng(0).random((batch_size * training.augment.views, width))
        head = networks.head(teacher, variables, _SHAPE)
        taught = {"embedding": (jnp.asarray(rows, jnp.float32),), "head": (head,)}
    taught = jax.device_put(taught, parallel.replicated(mesh))
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (batch_size, *_SHAPE), np.uint8),
        "label": rng.integers(0, _CLASSES, batch_size, np.int32),
        "index": np.arange(batch_size, dtype=np.int32),
    }
    batch = Batch(**parallel.put_batch(mesh, batch))
    state = built.create(0, variables)

    def work():
        nonlocal state
        state, logged = built.train_step(state, taught, batch)
        jax.block_until_ready(logged)

    work()
    return work


def _loss(rows: int, batch_size: int) -> Work:
    """RRD's loss and its gradient alone, against a memory of so many rows."""
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((batch_size, _DIM), (batch_size, _DIM), (rows, _DIM))
    student, teacher, memory = (
        (vectors := jax.random.normal(key, shape)) / jnp.linalg.norm(vectors, axis=1, keepdims=True)
        for key, shape in zip(keys, shapes, strict=True)
    )

    def mean(student, teacher, memory):
        losses = relational_loss(
            student, teacher, memory, temperature_student=0.04, temperature_teacher=0.10
        )
        return jnp.mean(losses)

    compiled = jax.jit(jax.value_and_grad(mean)).lower(student, teacher, memory).compile()

    def work():
        jax.block_until_ready(compiled(student, teacher, memory))

    work()
    work.temporaries = compiled.memory_analysis().temp_size_in_bytes
    return work


def _run(epochs: int, cache: str) -> Work:
    """A whole run of the digits, teacher left out, as a command; programs are compiled before."""

    def work():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "rrd_jax.main", f"--workdir={folder}/run"]
            command += ["--config=configs/digits.py:resnet8", f"--config.train.epochs={epochs}"]
            environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
            subprocess.run(
                command, env=environment, cwd=_CONFIGS.parent, check=True, capture_output=True
            )

    return work


def _rounds(works: dict[int, Work], count: int) -> dict[str, Any]:
    """Seconds of a call of each, by round; all take turns."""
    seconds: dict[int, list[float]] = {at: [] for at in works}
    for i in range(count):
        for at in sorted(works, reverse=bool(i % 2)):
            start, calls = time.perf_counter(), 0
            while not calls or time.perf_counter() - start < _LONG / count:
                works[at]()
                calls += 1
            seconds[at].append((time.perf_counter() - start) / calls)
    found: dict[str, Any] = {"seconds": seconds}
    temporaries = {at: getattr(work, "temporaries", None) for at, work in works.items()}
    return found | ({"temporaries": temporaries} if any(temporaries.values()) else {})


def _of(make: Callable[[int], Work], points: Sequence[int], rounds: int) -> dict[str, Any]:
    return _rounds({at: make(at) for at in points}, rounds)


def batch(rounds: int, smoke: bool) -> dict[str, Any]:
    """A step, over images a step."""
    points = (4, 8) if smoke else (8, 16, 32, 64, 128, 256, 512)
    return _of(lambda size: _step(batch_size=size, remembered=smoke), points, rounds)


def memory(rounds: int, smoke: bool, batch_size: int = 32) -> dict[str, Any]:
    """The loss and its gradient, over rows of the memory."""
    points = (256, 1024) if smoke else [4**i for i in range(5, 11)]
    return _of(functools.partial(_loss, batch_size=batch_size), points, rounds)


def large_batch_memory(rounds: int, smoke: bool) -> dict[str, Any]:
    """The same with 256 images."""
    return memory(rounds, smoke, batch_size=16 if smoke else 256)


def student(rounds: int, smoke: bool) -> dict[str, Any]:
    """A step with the teacher remembered, over multiply-adds of the student for an image."""
    names = ("resnet8", "resnet14") if smoke else tuple(f"resnet{n}" for n in (8, 14, 20, 32, 56))
    size = 4 if smoke else _BATCH
    works = {}
    for name in names:
        macs = networks.summarize(networks.create(name, _CLASSES), _SHAPE).macs
        works[macs] = _step(name, size, remembered=True)
    return _rounds(works, rounds) | {"names": dict(zip(works, names, strict=True))}


def devices(rounds: int, smoke: bool) -> dict[str, Any]:
    """A step of one batch, over devices that share it, and here the cores too."""
    points = (1, 2) if smoke else (1, 2, 4, 8)
    if jax.default_backend() != "cpu":
        points = [n for n in points if n <= jax.device_count()]
    size = 8 if smoke else 64
    return _of(lambda n: _step(batch_size=size, devices=n, remembered=smoke), points, rounds)


def epochs(rounds: int, smoke: bool) -> dict[str, Any]:
    """A command that trains a student, over its epochs."""
    points = (1, 2) if smoke else (1, 10, 20, 40, 80)
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        _run(points[0], cache)()
        cold = time.perf_counter() - start
        found = _of(functools.partial(_run, cache=cache), points, min(rounds, 3))
    return found | {"cold": cold}


CURVES = {
    function.__name__: function
    for function in (batch, memory, large_batch_memory, student, devices, epochs)
}


def _main() -> None:
    name, rounds, *smoke = sys.argv[1:]
    if name == "devices":
        jax.config.update("jax_num_cpu_devices", 8)
    print(json.dumps(CURVES[name](int(rounds), bool(smoke))))


if __name__ == "__main__":
    _main()
