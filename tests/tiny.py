"""A network that compiles quickly, and a job with cross-entropy, KD and RRD for step tests."""

import contextlib
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import networks, objectives, optim, parallel
from rrd_jax.data.augment import pipeline
from rrd_jax.networks.resnet import ResNet
from rrd_jax.objectives.batch import Batch
from rrd_jax.teacher import step_outputs
from rrd_jax.training import state, step
from rrd_jax.training.recipe import Term

NETWORK = functools.partial(ResNet, blocks=(1,), widths=(8, 16))
# The identity: one view without augmentation.
PLAIN = pipeline.Augment(
    "plain", 1, lambda key, epoch, index: 0 * index, lambda view, index, images: images
)
# Optimizing hundreds of small random draws takes longer than running them.
QUICK = {"xla_backend_optimization_level": 0}


def place(mesh, batch):
    """Puts a batch on the devices of the mesh."""
    arrays = {name: leaf for name, leaf in batch._asdict().items() if leaf is not None}
    return Batch(**parallel.put_batch(mesh, arrays))


@contextlib.contextmanager
def registered():
    """Registers NETWORK as `tiny` for the duration of the context."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.MODELS, "tiny", NETWORK)
        yield


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
    warmup=0,
    over=None,
    **options,
):
    """Creates a small training job.

    Args:
      mesh: the devices.
      batch: number of images per batch.
      dtype: compute type of the networks.
      queue_size: number of rows in RRD's memory.
      dim: width of RRD's embeddings.
      chunk: RRD's parameter `chunk`.
      push_before: RRD's parameter `push_before`.
      optimizer: an optimizer; None for SGD.
      shard_parameters: True to shard the parameters over the devices.
      warmup: KD's warm-up, in epochs of 5 steps.
      over: RRD's parameter `over`; over patches, the memory of patches has `queue_size` rows too.
      **options: further fields of `step.Task`.

    Returns:
      The initial state, the compiled step, the teacher's variables and four batches.
    """
    network = NETWORK(num_classes=4, dtype=dtype)
    rrd = objectives.create(
        "rrd",
        queue_size=queue_size,
        patch_queue_size=queue_size,
        dim=dim,
        chunk=chunk,
        push_before=push_before,
        over=over,
    )
    terms = {
        "ce": Term(objectives.create("ce")),
        "kd": Term(objectives.create("kd"), warmup=warmup),
        "rrd": Term(rrd),
    }
    optimizer = optimizer or optim.sgd(lambda step: 0.002)
    sharded = parallel.gathered(mesh, network, fully=shard_parameters)
    gather = functools.partial(parallel.gather, mesh, fully=shard_parameters)
    teach = step_outputs.live(sharded)
    task = step.Task(sharded, terms, optimizer, PLAIN, 5, teach, gather=gather, **options)

    def create(key):
        named = {name: term.objective for name, term in terms.items()}
        average = task.ema > 0
        return state.create(key, network, named, optimizer, (8, 8, 1), network, average=average)

    def train_step(*arguments):
        return step.train_step(task, *arguments)

    abstract = jax.eval_shape(create, jax.random.key(0))
    shardings = parallel.state_shardings(mesh, abstract, fully=shard_parameters)
    start = jax.jit(create, out_shardings=shardings, compiler_options=QUICK)(jax.random.key(0))
    compiled = jax.jit(
        parallel.with_mesh(mesh, chex.assert_max_traces(n=1)(train_step)),
        donate_argnums=0,
        out_shardings=(shardings, parallel.replicated(mesh)),
    )
    variables = {
        "params": jax.tree.map(lambda leaf: leaf + 0.01, start.params["student"]),
        "batch_stats": jax.tree.map(jnp.copy, start.batch_stats),
    }
    teacher_shardings = parallel.weight_shardings(mesh, variables, fully=shard_parameters)
    teacher = jax.device_put(variables, teacher_shardings)
    rng = np.random.default_rng(0)
    batches = [
        Batch(
            image=rng.standard_normal((batch, 8, 8, 1)).astype(np.float32),
            label=rng.integers(0, 4, batch, np.int32),
            index=np.arange(batch, dtype=np.int32),
        )
        for _ in range(4)
    ]
    return start, compiled, teacher, batches
