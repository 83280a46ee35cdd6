"""A small job of cross-entropy, KD and RRD, for tests of the step."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import networks, objectives, optim, parallel, state, steps
from rrd_jax.data import augment

# No augmentation.
plain = augment.Augment(
    "plain", 1, lambda key, epoch, index: 0 * index, lambda view, images: images
)


def job(
    mesh,
    *,
    batch=16,
    dtype=jnp.float32,
    queue_size=24,
    dim=8,
    chunk=None,
    push_before=None,
    optimizer=None,
    shard_parameters=False,
    ema=0.0,
    **options,
):
    """State, compiled step, teacher variables and batches, on a mesh."""
    student = networks.create("resnet8", 4, dtype=dtype)
    teacher = networks.create("resnet8", 4, dtype=dtype)
    terms = {
        "ce": objectives.create("ce"),
        "kd": objectives.create("kd"),
        "rrd": objectives.create(
            "rrd", queue_size=queue_size, dim=dim, chunk=chunk, push_before=push_before
        ),
    }
    weights = dict.fromkeys(terms, 1.0)
    optimizer = optimizer or optim.sgd(lambda step: 0.002)

    def create(key):
        return state.create(key, student, terms, optimizer, (8, 8, 1), teacher, average=ema > 0)

    abstract = jax.eval_shape(create, jax.random.key(0))
    shardings = parallel.state_shardings(mesh, abstract, parameters=shard_parameters)
    quick = {"xla_backend_optimization_level": 0}
    start = jax.jit(create, out_shardings=shardings, compiler_options=quick)(jax.random.key(0))
    step = jax.jit(
        chex.assert_max_traces(n=1)(
            steps.make_train_step(
                student,
                terms,
                weights,
                optimizer,
                plain,
                5,
                steps.running(teacher),
                ema=ema,
                **options,
            )
        ),
        donate_argnums=0,
        out_shardings=(shardings, parallel.replicated(mesh)),
    )
    teacher_variables = {
        "params": jax.tree.map(lambda x: x + 0.01, start.params["student"]),
        "batch_stats": jax.tree.map(jnp.copy, start.batch_stats),
    }
    rng = np.random.default_rng(0)
    batches = [
        {
            "image": rng.standard_normal((batch, 8, 8, 1)).astype(np.float32),
            "label": rng.integers(0, 4, batch, np.int32),
            "index": np.arange(batch, dtype=np.int32),
        }
        for _ in range(4)
    ]
    return start, step, teacher_variables, batches
