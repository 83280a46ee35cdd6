"""Losses of a student without labels on held-out images.

The images are not augmented. The losses compare the evaluated student with the teacher, without a
teacher cache; they read the memories of the objectives and do not update them.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import networks, objectives, parallel
from rrd_jax.cpu import compiling
from rrd_jax.evaluation.predictions import StoppedError
from rrd_jax.objectives.batch import Batch
from rrd_jax.teacher import step_outputs
from rrd_jax.terminal import interrupts
from rrd_jax.training.recipe import Recipe
from rrd_jax.training.state import TrainState


class Losses(NamedTuple):
    """The compiled losses of a run on held-out images.

    Attributes:
      compute: (the student's variables, states of the objectives by name, the teacher's variables,
        images [B, H, W, channels] uint8) -> {"loss": [], "loss/<name>": []}, the weighted sum and
        the means of each objective over the batch, see `objectives.mean_losses`; compiled.
      names: objectives whose loss is defined on held-out images.
      batch_size: B, the number of images per loss in training.
    """

    compute: Callable
    names: tuple[str, ...]
    batch_size: int


def compile_losses(
    recipe: Recipe,
    state: TrainState,
    teacher: networks.Network | None,
    mesh: jax.sharding.Mesh,
    image_shape: tuple[int, int, int],
) -> Losses:
    """Compiles the losses of a run on held-out images.

    Args:
      recipe: recipe of the run.
      state: state of the run, as shapes.
      teacher: the teacher's network; None if no objective reads the teacher.
      mesh: the devices.
      image_shape: (H, W, channels).
    """
    training = recipe.training
    size = training.batch_size // training.accumulate
    names = _comparable(recipe, state, teacher, image_shape, size)
    fully, normalize = training.shard_parameters, training.normalize
    teach = teacher and step_outputs.live(parallel.gathered(mesh, teacher, fully=fully))
    network = parallel.gathered(mesh, recipe.student, fully=fully)

    def compute(student, states, teacher, images):
        batch = Batch(normalize(images), None, None)
        teacher_outputs = teach(teacher, batch) if teach else None
        outputs = network.apply(student, batch.image, train=False)
        means = {}
        for name in names:
            objective, state = recipe.objectives[name], states[name]
            means |= objectives.mean_losses(
                name, objective, state, outputs, teacher_outputs, batch
            )[0]
        total = sum(recipe.terms[name].weight * means[name] for name in names)
        return {"loss": total} | {f"loss/{name}": mean for name, mean in means.items()}

    compiled = compiling.jit_for_mesh(
        parallel.with_mesh(mesh, compute),
        mesh,
        fast_cpu=training.fast_cpu,
        out_shardings=parallel.replicated(mesh),
    )
    return Losses(compiled, names, size)


def collect(
    losses: Losses,
    state: TrainState,
    teacher: Any,
    split: Any,
    mesh: jax.sharding.Mesh,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Returns the mean losses over the full batches of a split; {} without full batches or losses.

    Args:
      losses: the compiled losses.
      state: state of the run, whose student is evaluated.
      teacher: the teacher's variables.
      split: the test split, whose labels are not read.
      mesh: the devices.
      stop: polled after each batch; True stops.

    Raises:
      StoppedError: `stop` returned True.
    """
    count = len(split) // losses.batch_size
    if not count or not losses.names:
        return {}
    student = networks.network_variables(state.student)
    states = {name: state.objective(name) for name in losses.names}
    parts = []
    batches = split.test_batches(losses.batch_size, parallel.process_share())
    with contextlib.closing(batches):
        for batch, _ in zip(batches, range(count), strict=False):
            images = parallel.put_batch(mesh, {"image": batch["image"]})["image"]
            parts.append(losses.compute(student, states, teacher, images))
            if stop():
                raise StoppedError
            interrupts.check()
    parts = jax.device_get(parts)
    return {name: float(np.mean([p[name] for p in parts], dtype=np.float64)) for name in parts[0]}


def _comparable(
    recipe: Recipe,
    state: TrainState,
    teacher: networks.Network | None,
    image_shape: Sequence[int],
    size: int,
) -> tuple[str, ...]:
    """Returns the objectives that need no indices and no second view of training images."""
    student, teacher_outputs = (
        network and networks.summarize(network, tuple(image_shape)).outputs
        for network in (recipe.student, teacher)
    )
    image = jax.ShapeDtypeStruct((size, *image_shape), jnp.float32)
    batch = Batch(image, None, jax.ShapeDtypeStruct((size,), jnp.int32))

    def shapes(name):
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state.objective(name)
        )

    return tuple(
        name
        for name, objective in recipe.objectives.items()
        if not objective.needs_second
        and (
            not objective.needs_index
            or not objectives.reads(
                "index", name, objective, shapes(name), student, teacher_outputs, batch
            )
        )
    )
