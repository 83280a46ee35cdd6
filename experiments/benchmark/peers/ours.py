"""Times the train step of rrd_jax, compiled and fed as in a run, for experiments.benchmark.

The argument is a task as JSON. Once all cases of the task are compiled and warm, the program prints
a report, a line of JSON. Each line of input is then a request, and the program answers with a line
of JSON:

    round CASE  runs the task's epochs and returns the seconds per step
    bytes CASE  returns the peak memory of an epoch
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
import resident_memory

from rrd_jax import data, networks, parallel
from rrd_jax.config import limit, parse
from rrd_jax.data.feeds.feed import Resident
from rrd_jax.jobs import loop, program
from rrd_jax.teacher import fill_cache, placement, row_format
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.training import recipe
from rrd_jax.training.recipe import Job

_ROOT = pathlib.Path(__file__).parents[3]
# On a CPU, the teacher computes the views of this number of images only.
_CPU_IMAGES = 16


class _Setting:
    """Objects that all cases share: random images, the teacher and its cached embeddings."""

    def __init__(self, task: dict[str, Any]):
        self.task, self.mesh = task, parallel.make_mesh(jax.devices()[:1])
        self.dataset = _random_images(task)
        job = self.job("rrd+kd")
        network = job.teachers[0].network.create(task["classes"])
        init = functools.partial(networks.init, network, image_shape=self.dataset.image_shape)
        variables = jax.jit(init, out_shardings=parallel.replicated(self.mesh))(jax.random.key(1))
        training = job.student.training
        shape = self.dataset.image_shape
        weights, _ = placement.place(network, variables, shape, self.mesh, fully=False)
        self.teacher = FrozenNetwork(network, (weights,), (), self.dataset, self.mesh, training)
        images = self.dataset.train.images
        jax.block_until_ready(self.teacher.variables)
        self.embeddings, self.fill_seconds = None, 0.0
        if training.augment.views:
            self.embeddings, self.fill_seconds = _embed(self.teacher, images)

    def job(self, method: str) -> Job:
        """Returns the job of the task's config with a method's objectives."""
        task = self.task
        get_config = runpy.run_path(str(_ROOT / task["config"]))["get_config"]
        config = get_config(f"{task['teacher']}-{task['student']},{method}")
        config.train.batch_size = task["batch_size"]
        both = {"student", "teacher"} <= set(task["halves"])
        config.dtype = "bfloat16" if both else "float32"
        config.teacher.dtype = "bfloat16" if "teacher" in task["halves"] else ""
        limit(config, queue_size=task["queue_size"])
        return parse(config)

    def recipe(self, method: str) -> recipe.Recipe:
        """Returns the recipe of the method's student."""
        examples = len(self.dataset.train)
        return recipe.create(self.job(method).student.training, self.task["classes"], examples)


def _random_images(task: dict[str, Any]) -> data.Dataset:
    """Returns a resident data set of random images."""
    examples, side = task["examples"], task["side"]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (examples, side, side, 3), np.uint8)
    labels = rng.integers(0, task["classes"], examples, np.int32)
    source = [{"image": image, "label": i} for image, i in zip(images, labels, strict=True)]
    split = Resident(source, side, channels=3)
    return data.Dataset("random", task["classes"], (side, side, 3), train=split, test=split)


def _embed(teacher: FrozenNetwork, images: np.ndarray) -> tuple[dict[str, Any], float]:
    """Returns the teacher's cached embeddings, and the seconds that the cache of all images costs.

    A run also stores the embeddings on disk. On a CPU, the embeddings of some images are repeated
    for all images.
    """
    computed = images[:_CPU_IMAGES] if jax.default_backend() == "cpu" else images
    augment = teacher.training.augment
    layout = row_format.of_network(
        teacher.network, teacher.dataset.image_shape, "auto", has_patches=False
    )
    width = layout.width
    table = np.empty((len(computed), augment.views, width), layout.dtype)
    index, start = np.arange(len(computed)), time.perf_counter()
    fill_cache.fill(
        teacher.network,
        teacher.variables,
        teacher.dataset.train,
        augment,
        teacher.mesh,
        index,
        layout.encode,
        table.__setitem__,
    )
    seconds = (time.perf_counter() - start) * len(images) / len(computed)
    times = -(-len(images) // len(computed))
    table = np.tile(table.reshape(-1, width), (times, 1))
    table = jax.device_put(table, parallel.split(teacher.mesh))
    head = networks.head(teacher.network, teacher.variables, teacher.dataset.image_shape)
    return {"embedding": (table,), "head": (head,)}, seconds


class _Case:
    """The compiled and warm steps of a run, without tests and checkpoints.

    Attributes:
      start: seconds until the steps were warm.
    """

    def __init__(self, setting: _Setting, name: str):
        start = time.perf_counter()
        method, _, is_cached = name.partition(", ")
        plan, teacher = setting.recipe(method), None if method == "ce" else setting.teacher
        # The benchmark determines the number of steps.
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
            onednn_from=0,
        )
        self._state = self._program.create(training.seed, teacher and teacher.variables)
        self._teacher = setting.embeddings if is_cached else teacher and teacher.variables
        length = self._program.length
        self._calls = loop.dispatches(plan, setting.dataset, setting.mesh, length, start=0)
        self.run_epochs(1)
        self.start = time.perf_counter() - start

    def run_epochs(self, count: int) -> int:
        """Runs epochs, fetching losses as often as a run, and returns the number of steps."""
        steps, step, pending, waiting = count * self._steps_per_epoch, 0, [], 0
        while step < steps:
            length, self._batch = next(self._calls)
            train = self._program.train_steps if length > 1 else self._program.train_step
            self._state, logged = train(self._state, self._teacher, self._batch)
            pending.append(logged)
            step, waiting = step + length, waiting + length
            if waiting >= self._log_every or step % self._steps_per_epoch == 0:
                jax.device_get(pending)
                pending, waiting = [], 0
        jax.block_until_ready(self._state)
        return steps

    def bytes(self) -> int | None:
        """Returns the peak memory of an epoch: the arrays of the case, and the memory of a step.

        On a CPU, the memory of a step is the growth of resident memory, as for the peer; elsewhere
        it is XLA's figure.
        """
        arrays = jax.tree.leaves((self._state, self._teacher, self._batch))
        array_bytes = sum(leaf.nbytes for leaf in arrays)
        if jax.default_backend() == "cpu":
            growth = resident_memory.growth(lambda: self.run_epochs(1))
            return growth and growth + array_bytes
        train = self._program.train_steps or self._program.train_step
        compiled = train.lower(self._state, self._teacher, self._batch).compile()
        return array_bytes + compiled.memory_analysis().temp_size_in_bytes


def _answer(request: str, cases: dict[str, _Case], task: dict[str, Any]) -> dict[str, Any]:
    kind, _, name = request.partition(" ")
    case = cases[name]
    if kind == "bytes":
        return {"bytes": case.bytes()}
    start = time.perf_counter()
    steps = case.run_epochs(task["epochs"])
    return {"seconds": (time.perf_counter() - start) / steps}


def _main() -> None:
    task = json.loads(sys.argv[1])
    setting = _Setting(task)
    cases = {name: _Case(setting, name) for name in task["cases"]}
    ready = {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__},
        "fill": setting.fill_seconds,
        "start": {name: case.start for name, case in cases.items()},
    }
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(line.strip(), cases, task)), flush=True)


if __name__ == "__main__":
    _main()
