"""Our train step, as a run compiles and drives it; run by experiments/benchmark.py.

The argument is a task as JSON. A line of JSON says that all its cases are compiled and warm; then
each line that comes in names a case, and one of JSON goes out once it has made its epochs.
"""

import functools
import importlib
import json
import sys
import time
from typing import Any

import jax
import numpy as np

from rrd_jax import networks, parallel, program, recipes
from rrd_jax.config import fields as common
from rrd_jax.data import feed
from rrd_jax.teacher import cache, fold


class _Setting:
    """Images, networks, and what the teacher remembers of the one in the other."""

    def __init__(self, task: dict[str, Any]):
        self.task, self.mesh = task, parallel.make_mesh(jax.devices()[:1])
        everywhere = parallel.replicated(self.mesh)
        examples, self.shape = task["examples"], (task["side"], task["side"], 3)
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (examples, *self.shape), np.uint8)
        labels = rng.integers(0, task["classes"], examples, np.int32)
        whole = {"image": images.reshape(examples, -1), "label": labels}
        self.whole = parallel.put(everywhere, whole)

        config = self._config("rrd+kd")
        self.teacher = recipes.create_network(config, task["teacher"], task["classes"])
        init = functools.partial(networks.init, self.teacher, image_shape=self.shape)
        self.variables = jax.jit(init, out_shardings=everywhere)(jax.random.key(1))
        folding = functools.partial(fold.fold, self.teacher, image_shape=self.shape)
        self.folded = jax.jit(folding, out_shardings=everywhere)(self.variables)
        self.student, shown = self.recipe("rrd+kd").student, self.recipe("rrd+kd").augment
        start = time.perf_counter()
        self.remembered = self._fill(images, shown) if shown.views else None
        self.fill = time.perf_counter() - start

    def _config(self, method):
        task = self.task
        module = importlib.import_module(task["config"])
        config = module.get_config(f"{task['teacher']}-{task['student']},{method}")
        config.train.batch_size = task["batch_size"]
        common.limit(config, queue_size=task["queue_size"])
        return config

    def recipe(self, method: str) -> program.Recipe:
        """What a run of the config would do."""
        classes, examples = self.task["classes"], self.task["examples"]
        return recipes.from_config(self._config(method), method, classes, examples)

    def _fill(self, images, shown):
        summary = networks.summarize(self.teacher, self.shape)
        rows = (len(images) * shown.views, summary.outputs.embedding.shape[-1])
        split = parallel.split(self.mesh)
        like = jax.ShapeDtypeStruct(rows, self.teacher.dtype, sharding=split)
        table = cache.fill(self.teacher, self.folded, like, images, shown, self.mesh)
        head = self.variables["params"][summary.classifier]
        return {"embedding": (table,), "head": (head,)}

    def flops(self, case: str) -> int:
        """Of the networks' convolutions and matrices in a step."""
        student, teacher = (
            networks.summarize(network, self.shape).macs for network in (self.student, self.teacher)
        )
        runs = case != "ce" and not case.endswith("remembered")
        return 2 * self.task["batch_size"] * (3 * student + runs * teacher)


class _Run:
    """The trainer's loop over a resident split, without tests and checkpoints."""

    def __init__(self, setting: _Setting, case: str):
        method, _, recalls = case.partition(", ")
        taught = method != "ce"
        self._recipe, self._epoch = setting.recipe(method), 0
        self._mesh, self._whole = setting.mesh, setting.whole
        self._steps_per_epoch = setting.task["examples"] // self._recipe.batch_size
        self._compiled = program.build(
            self._recipe,
            setting.mesh,
            setting.shape,
            self._steps_per_epoch,
            resident=True,
            teacher=setting.teacher if taught else None,
            recalls=bool(recalls),
        )
        self._state = self._compiled.create(0, setting.variables if taught else None)
        self._teacher = None
        if taught:
            self._teacher = setting.remembered if recalls else setting.folded

    def epochs(self, count: int) -> int:
        """Makes them, looks at the losses as often as the trainer does, and returns the steps."""
        recipe, compiled, examples = self._recipe, self._compiled, len(self._whole["label"])
        for _ in range(count):
            order = feed.epoch_order(recipe.seed, self._epoch, recipe.batch_size, examples)
            order = parallel.put(parallel.split(self._mesh, axis=1), order)
            made, waiting, pending = 0, 0, []
            while made < self._steps_per_epoch:
                several = made + compiled.length <= self._steps_per_epoch and compiled.length > 1
                train = compiled.train_steps if several else compiled.train_step
                batch = self._whole | {"order": order}
                self._state, logged = train(self._state, self._teacher, batch)
                pending.append(logged)
                length = compiled.length if several else 1
                made, waiting = made + length, waiting + length
                if waiting >= recipe.log_every or made == self._steps_per_epoch:
                    jax.device_get(pending)
                    waiting, pending = 0, []
            self._epoch += 1
        jax.block_until_ready(self._state)
        return count * self._steps_per_epoch


def _main() -> None:
    task = json.loads(sys.argv[1])
    setting, runs, started = _Setting(task), {}, {}
    for case in task["cases"]:
        start = time.perf_counter()
        runs[case] = _Run(setting, case)
        runs[case].epochs(1)
        started[case] = time.perf_counter() - start
    ready = {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__},
        "fill": setting.fill,
        "start": started,
        "flops": {case: setting.flops(case) for case in task["cases"]},
    }
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        steps = runs[line.strip()].epochs(task["epochs"])
        print(json.dumps({"seconds": (time.perf_counter() - start) / steps}), flush=True)


if __name__ == "__main__":
    _main()
