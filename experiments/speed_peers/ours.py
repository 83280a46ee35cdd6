"""Our train step, as a run compiles and drives it; run by experiments/benchmark.py.

The argument is a task as JSON. A line of JSON says that all its cases are compiled and warm; then
each line that comes in names a case, and one of JSON goes out once it has made its epochs.
"""

import functools
import importlib
import json
import sys
import time

import jax
import numpy as np

from configs import common
from rrd_jax import models, parallel, program, recipes, views
from rrd_jax.data import feed


def _main() -> None:
    task = json.loads(sys.argv[1])
    examples, size = task["examples"], task["batch_size"]
    shape = (task["side"], task["side"], 3)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (examples, *shape), np.uint8)
    labels = rng.integers(0, task["classes"], examples, np.int32)
    mesh = parallel.make_mesh(jax.devices()[:1])
    everywhere = parallel.replicated(mesh)
    whole = {"image": images.reshape(examples, -1), "label": labels}
    whole = parallel.put(everywhere, whole)

    def recipe(method):
        pair = f"{task['teacher']}-{task['student']}"
        config = importlib.import_module(task["config"]).get_config(f"{pair},{method}")
        config.train.batch_size = size
        common.limit(config, queue_size=task["queue_size"])
        return config, recipes.from_config(config, method, task["classes"], examples)

    config, chosen = recipe("rrd+kd")
    teacher = recipes.create_network(config, task["teacher"], task["classes"])
    init = functools.partial(models.init, teacher, image_shape=shape)
    variables = jax.jit(init, out_shardings=everywhere)(jax.random.key(1))
    known = {"teacher": models.summarize(teacher, shape)}
    known["student"] = models.summarize(chosen.student, shape)
    ready = {
        "platform": jax.default_backend(),
        "device": mesh.devices.flat[0].device_kind,
        "versions": {"jax": jax.__version__},
        "fill": 0.0,
        "start": {},
        "flops": {},
    }

    remembered, shown = None, chosen.augment
    if shown.views:
        start = time.perf_counter()
        length = known["teacher"].outputs.embedding.shape[-1]
        like = jax.ShapeDtypeStruct(
            (examples * shown.views, length), teacher.dtype, sharding=parallel.split(mesh)
        )
        table = views.fill(teacher, variables, like, images, shown, mesh)
        ready["fill"] = time.perf_counter() - start
        head = variables["params"][known["teacher"].classifier]
        remembered = {"embedding": (table,), "head": (head,)}

    cases = {}
    for case in task["cases"]:
        start = time.perf_counter()
        method, _, recalls = case.partition(", ")
        taught = method != "ce"
        _, chosen = recipe(method)
        compiled = program.build(
            chosen,
            mesh,
            shape,
            examples // size,
            resident=True,
            teacher=teacher if taught else None,
            recalls=bool(recalls),
        )
        own = variables if taught else None
        state = compiled.create(0, own)
        cases[case] = _Run(chosen, compiled, state, remembered if recalls else own, whole, mesh)
        cases[case].epochs(1)
        ready["start"][case] = time.perf_counter() - start
        macs = 3 * known["student"].macs + (known["teacher"].macs if taught and not recalls else 0)
        ready["flops"][case] = 2 * macs * size
    print(json.dumps(ready), flush=True)

    for line in sys.stdin:
        start = time.perf_counter()
        steps = cases[line.strip()].epochs(task["epochs"])
        print(json.dumps({"seconds": (time.perf_counter() - start) / steps}), flush=True)


class _Run:
    """The trainer's loop over a resident split, without tests and checkpoints."""

    def __init__(self, recipe, compiled, state, teacher, whole, mesh):
        self._recipe, self._compiled, self._state = recipe, compiled, state
        self._teacher, self._whole, self._mesh = teacher, whole, mesh
        self._epoch = 0

    def epochs(self, count: int) -> int:
        """Makes them, looks at the losses as often as the trainer does, and returns the steps."""
        recipe, compiled = self._recipe, self._compiled
        steps_per_epoch = len(self._whole["label"]) // recipe.batch_size
        for _ in range(count):
            order = feed.epoch_order(
                recipe.seed, self._epoch, recipe.batch_size, len(self._whole["label"])
            )
            order = parallel.put(parallel.split(self._mesh, axis=1), order)
            made, waiting, pending = 0, 0, []
            while made < steps_per_epoch:
                several = compiled.train_steps and made + compiled.length <= steps_per_epoch
                train = compiled.train_steps if several else compiled.train_step
                batch = self._whole | {"order": order}
                self._state, logged = train(self._state, self._teacher, batch)
                pending.append(logged)
                length = compiled.length if several else 1
                made, waiting = made + length, waiting + length
                if waiting >= recipe.log_every or made == steps_per_epoch:
                    jax.device_get(pending)
                    waiting, pending = 0, []
            self._epoch += 1
        jax.block_until_ready(self._state)
        return count * steps_per_epoch


if __name__ == "__main__":
    _main()
