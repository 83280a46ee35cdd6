"""What a network by import path costs beside one of ours: tracing, and a step of rrd+kd.

    python experiments/own_network_cost.py resnet8
    python experiments/own_network_cost.py tests.networks.custom_nets:Copied

Prints one line of JSON; processes are to be started in turns, on one machine.
"""

import json
import pathlib
import runpy
import statistics
import sys
import time

import jax
import jax.numpy as jnp

from rrd_jax import networks, parallel
from rrd_jax.config import parse
from rrd_jax.jobs import program
from rrd_jax.objectives.batch import Batch
from rrd_jax.training import recipe

_CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
_SHAPE, _BATCH, _STEPS = (32, 32, 3), 64, 60


def measure(student: str) -> dict[str, float]:
    """Seconds to trace a streamed step, the median of its milliseconds, and the last loss."""
    config = runpy.run_path(str(_CONFIGS / "cifar100.py"))["get_config"]("resnet20-resnet8,rrd+kd")
    config.student.model = student
    job = parse(config)
    plan = recipe.create(job.student.training, 100, 50_000)
    teacher = job.teachers[0].network.create(100)
    mesh = parallel.make_mesh(jax.devices()[:1])
    built = program.build(plan, mesh, _SHAPE, 781, resident=False, teacher=teacher)
    variables = networks.init(teacher, jax.random.key(0), _SHAPE)
    images = jnp.zeros((_BATCH, *_SHAPE), jnp.uint8)
    batch = Batch(images, jnp.zeros(_BATCH, jnp.int32), jnp.arange(_BATCH))
    state = built.create(0, variables)
    start = time.perf_counter()
    lowered = built.train_step.lower(state, variables, batch)
    trace = time.perf_counter() - start
    step, times = lowered.compile(), []
    for _ in range(_STEPS):
        start = time.perf_counter()
        state, logged = step(state, variables, batch)
        jax.block_until_ready(logged)
        times.append(1000 * (time.perf_counter() - start))
    return {"trace": trace, "step": statistics.median(times), "loss": float(logged["loss"])}


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        sys.exit(not {"-h", "--help"} & set(sys.argv))
    sys.path.insert(0, "")
    print(json.dumps(measure(sys.argv[1])))
