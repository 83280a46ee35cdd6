"""Times our train step, compiled and fed as in a run; experiments/benchmark.py starts this program.

The argument is a task as JSON. The first line of output is JSON too: it says that all cases of the
task are compiled and warm. From then on each line of input names a case; the program makes the
task's epochs of it and answers with a line of JSON.
"""

import dataclasses
import functools
import json
import pathlib
import runpy
import sys
import time
from typing import Any

import jax
import numpy as np

from rrd_jax import data, loop, networks, parallel, program, recipe
from rrd_jax.config import limit, parse
from rrd_jax.data.feed import Resident
from rrd_jax.recipe import Job
from rrd_jax.teacher import cache
from rrd_jax.teacher.frozen import FrozenNetwork

_ROOT = pathlib.Path(__file__).parents[2]


class _Setting:
    """What all cases share: random images, the teacher and its cached embeddings."""

    def __init__(self, task: dict[str, Any]):
        self.task, self.mesh = task, parallel.make_mesh(jax.devices()[:1])
        self.dataset = _random_images(task)
        job = self.job("rrd+kd")
        network = job.teachers[0].network.create(task["classes"])
        init = functools.partial(networks.init, network, image_shape=self.dataset.image_shape)
        variables = jax.jit(init, out_shardings=parallel.replicated(self.mesh))(jax.random.key(1))
        training = job.student.training
        self.teacher = FrozenNetwork(network, variables, (), self.dataset, self.mesh, training)
        images = self.dataset.train.images
        jax.block_until_ready(self.teacher.folded)
        start = time.perf_counter()
        self.embeddings = _embed(self.teacher, images) if training.augment.views else None
        self.fill_seconds = time.perf_counter() - start

    def job(self, method: str) -> Job:
        """The job of the task's config, with a method's objectives."""
        task = self.task
        get_config = runpy.run_path(str(_ROOT / task["config"]))["get_config"]
        config = get_config(f"{task['teacher']}-{task['student']},{method}")
        config.train.batch_size = task["batch_size"]
        limit(config, queue_size=task["queue_size"])
        return parse(config)

    def recipe(self, method: str) -> recipe.Recipe:
        """The recipe of the method's student."""
        examples = len(self.dataset.train)
        return recipe.create(self.job(method).student.training, self.task["classes"], examples)

    def flops(self, case: str) -> int:
        """Of the convolutions and matrix products of the networks, in a step."""
        shape = self.dataset.image_shape
        macs = 3 * networks.summarize(self.recipe("rrd+kd").student, shape).macs
        if case != "ce" and not case.endswith("remembered"):
            macs += networks.summarize(self.teacher.network, shape).macs
        return 2 * self.task["batch_size"] * macs


def _random_images(task: dict[str, Any]) -> data.Dataset:
    """A resident data set of random images."""
    examples, side = task["examples"], task["side"]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (examples, side, side, 3), np.uint8)
    labels = rng.integers(0, task["classes"], examples, np.int32)
    source = [{"image": image, "label": i} for image, i in zip(images, labels, strict=True)]
    split = Resident(source, side, channels=3)
    return data.Dataset("random", task["classes"], (side, side, 3), train=split, test=split)


def _embed(teacher: FrozenNetwork, images: np.ndarray) -> dict[str, Any]:
    """The embeddings that a step reads in the teacher's place; a run keeps them on disk too."""
    augment = teacher.training.augment
    summary = networks.summarize(teacher.network, teacher.dataset.image_shape)
    shape = (len(images) * augment.views, summary.outputs.embedding.shape[-1])
    split = parallel.split(teacher.mesh)
    like = jax.ShapeDtypeStruct(shape, teacher.network.dtype, sharding=split)
    table = cache.fill(teacher.network, teacher.folded, like, images, augment, teacher.mesh)
    head = networks.head(teacher.network, teacher.variables, teacher.dataset.image_shape)
    return {"embedding": (table,), "head": (head,)}


class _Case:
    """The steps of a run, without its tests and checkpoints."""

    def __init__(self, setting: _Setting, name: str):
        method, _, is_cached = name.partition(", ")
        plan, teacher = setting.recipe(method), None if method == "ce" else setting.teacher
        # The benchmark decides when it ends.
        training = dataclasses.replace(plan.training, epochs=sys.maxsize)
        plan = dataclasses.replace(plan, training=training)
        self._log_every = training.log_every
        self._steps_per_epoch = len(setting.dataset.train) // training.batch_size
        self._program = program.build(
            plan,
            setting.mesh,
            setting.dataset.image_shape,
            self._steps_per_epoch,
            resident=True,
            teacher=teacher and teacher.network,
            teacher_is_cached=bool(is_cached),
        )
        self._state = self._program.create(training.seed, teacher and teacher.variables)
        self._teacher = setting.embeddings if is_cached else teacher and teacher.folded
        length = self._program.length
        self._calls = loop.dispatches(plan, setting.dataset, setting.mesh, length, start=0)

    def make_epochs(self, count: int) -> int:
        """Looks at the losses as often as a run does; returns the number of steps."""
        steps, step, pending, waiting = count * self._steps_per_epoch, 0, [], 0
        while step < steps:
            length, batch = next(self._calls)
            train = self._program.train_steps if length > 1 else self._program.train_step
            self._state, logged = train(self._state, self._teacher, batch)
            pending.append(logged)
            step, waiting = step + length, waiting + length
            if waiting >= self._log_every or step % self._steps_per_epoch == 0:
                jax.device_get(pending)
                pending, waiting = [], 0
        jax.block_until_ready(self._state)
        return steps


def _main() -> None:
    task = json.loads(sys.argv[1])
    setting, cases, started = _Setting(task), {}, {}
    for name in task["cases"]:
        start = time.perf_counter()
        cases[name] = _Case(setting, name)
        cases[name].make_epochs(1)
        started[name] = time.perf_counter() - start
    ready = {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__},
        "fill": setting.fill_seconds,
        "start": started,
        "flops": {name: setting.flops(name) for name in task["cases"]},
    }
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        steps = cases[line.strip()].make_epochs(task["epochs"])
        print(json.dumps({"seconds": (time.perf_counter() - start) / steps}), flush=True)


if __name__ == "__main__":
    _main()
