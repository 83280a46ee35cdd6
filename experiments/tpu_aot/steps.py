"""Train steps that are traced for TPUs, which need not exist."""

import importlib.util
import math
import os
import runpy
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from rrd_jax import errors, networks, objectives, parallel
from rrd_jax.config import parse
from rrd_jax.jobs import program
from rrd_jax.objectives.batch import Batch
from rrd_jax.teacher import fold
from rrd_jax.training import recipe
from rrd_jax.training.recipe import Job
from rrd_jax.training.step import Split

# Number of training images and of classes; all images are RGB.
_SETS = {"cifar100": (50_000, 100), "imagenet2012": (1_281_167, 1000)}


class Step(NamedTuple):
    """A lowered step that is not compiled yet.

    Attributes:
      name: name of the files.
      lowered: the lowered step for the mesh.
      mesh: chips of a topology.
      batch_size: images per step.
      flops: FLOPs of a step on all chips: convolutions and products of the networks, or of the
        loss.
    """

    name: str
    lowered: jax.stages.Lowered
    mesh: jax.sharding.Mesh
    batch_size: int
    flops: float


def make_mesh(
    topology: str, chips: int | None = None, axes: Sequence[tuple[str, int]] = ()
) -> jax.sharding.Mesh:
    """Returns the mesh of a run on the chips of a topology.

    Args:
      topology: libtpu's name of the topology.
      chips: number of chips, the first ones; None for all.
      axes: see `parallel.make_mesh`.

    Raises:
      InputError: libtpu is missing or does not support the topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise errors.InputError(
            "libtpu is not installed; on Linux x86_64, run pip install -e '.[test]'"
        )
    # No chip is used, so that several processes may load libtpu.
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).split("\n")[0]
        raise errors.InputError(
            f"unknown topology '{topology}' ({reason}); set a topology such as v5e:2x4"
        ) from error
    return parallel.make_mesh(list(devices)[:chips], axes)


def parse_job(config_file: str, **fields: Any) -> Job:
    """Returns the job of a config file, FILE or FILE:STRING, parsed for TPUs.

    Args:
      config_file: the config file.
      **fields: values of config fields by path.
    """
    path, _, argument = config_file.partition(":")
    config = runpy.run_path(path)["get_config"](argument)
    config.update_from_flattened_dict(fields)
    config.baseline = bool(config.teacher.model)
    plan = parse(config, platform="tpu")
    if len(plan.teachers) != 1:
        raise errors.InputError(f"'{config_file}' must have one teacher; set FILE:TEACHER-STUDENT")
    return plan


def train_step(plan: Job, mesh: jax.sharding.Mesh) -> Step:
    """Lowers the step that a job's student run compiles.

    Args:
      plan: a job with one teacher, parsed for a TPU.
      mesh: chips of a topology.

    Raises:
      InputError: the data set is not in `_SETS`, or the batch cannot be split over the mesh.
    """
    part = plan.student
    training, source = part.training, part.source
    examples, num_classes = errors.lookup("data set", source.name, _SETS)
    size, image_shape = training.batch_size, (source.image_size, source.image_size, 3)
    parallel.check_batch(mesh, size, training.accumulate)
    student_recipe = recipe.create(training, num_classes, examples)
    teacher = plan.teachers[0].network.create(num_classes)
    # Images of both data sets are resident unless the host crops them.
    resident = not source.crops_on_host
    built = program.build(
        student_recipe, mesh, image_shape, examples // size, resident=resident, teacher=teacher
    )
    variables = jax.eval_shape(
        lambda key: fold.fold(teacher, networks.init(teacher, key, image_shape), image_shape),
        built.abstract.key,
    )
    shardings = parallel.weight_shardings(mesh, variables, fully=training.shard_parameters)
    variables = jax.tree.map(
        lambda leaf, sharding: _abstract(leaf.shape, leaf.dtype, sharding), variables, shardings
    )
    batch = _step_input(mesh, examples, size, image_shape, resident=resident)
    step = built.train_steps or built.train_step
    # In the backward pass, each product has two gradients.
    macs = 3 * networks.summarize(student_recipe.student, image_shape).macs
    macs += networks.summarize(teacher, image_shape).macs
    lowered = step.lower(built.abstract, variables, batch)
    return Step(part.fields["name"], lowered, mesh, size, 2 * size * macs)


def _step_input(
    mesh: jax.sharding.Mesh,
    examples: int,
    size: int,
    image_shape: tuple[int, int, int],
    *,
    resident: bool,
) -> Split | Batch:
    """Returns the shapes of a step's input: a resident split, or a batch of a streamed split."""
    by_example = parallel.split(mesh)
    if not resident:
        return Batch(
            image=_abstract((size, *image_shape), jnp.uint8, by_example),
            label=_abstract((size,), jnp.int32, by_example),
            index=_abstract((size,), jnp.int32, by_example),
        )
    replicated = parallel.replicated(mesh)
    return Split(
        image=_abstract((examples, math.prod(image_shape)), jnp.uint8, replicated),
        label=_abstract((examples,), jnp.int32, replicated),
        order=_abstract((examples // size, size), jnp.int32, parallel.split(mesh, axis=1)),
    )


def memory_step(mesh: jax.sharding.Mesh, rows: int, batch_size: int = 256) -> Step:
    """Lowers the loss and gradients of RRD alone, for embeddings of 512 features as in ResNet-18.

    Args:
      mesh: chips of a topology.
      rows: rows of the memory.
      batch_size: number of images.
    """
    rrd = objectives.create("rrd", queue_size=rows)
    # The size of the images does not matter.
    images = jax.ShapeDtypeStruct((batch_size, 32, 32, 3), jnp.float32)
    outputs = _outputs(networks.create("resnet18", 1000), images)
    # With a queue, the objective reads no fields of the batch.
    lowered, state = _lower_objective(rrd, outputs, outputs, None, mesh)
    # Products of the student and the teacher: the similarities, and the mean rows in the gradient.
    flops = 4 * 2 * batch_size * state.memory.rows.size
    return Step(f"rrd-alone-memory-{rows}", lowered, mesh, batch_size, flops)


def _outputs(network: networks.Network, images: jax.ShapeDtypeStruct) -> Any:
    return jax.eval_shape(network.init_with_output, jax.random.key(0), images)[0]


def _lower_objective(
    objective: objectives.Objective, student: Any, teacher: Any, batch: Batch | None, mesh: Any
) -> tuple[jax.stages.Lowered, objectives.ObjectiveState]:
    """Returns an objective lowered with gradients and next memory, and the shapes of its state."""
    # Zero gradients for maps that the objective does not compare would cost more than the loss.
    fields = ("logits", "embedding", *(("maps", "preactivations") * objective.needs_maps))

    def step(memory, state, student, teacher, batch):
        def mean(params, parts):
            current = state._replace(params=params, memory=memory)
            losses, next_memory = objective.loss(current, student._replace(**parts), teacher, batch)
            return jnp.mean(losses), next_memory

        parts = {name: getattr(student, name) for name in fields}
        return jax.value_and_grad(mean, argnums=(0, 1), has_aux=True)(state.params, parts)

    state = jax.eval_shape(lambda: objective.init(jax.random.key(0), student, teacher))
    state, *outputs = _with_sharding((state, student, teacher), parallel.replicated(mesh))
    lowered = jax.jit(step, donate_argnums=0).lower(
        state.memory, state._replace(memory=()), *outputs, batch
    )
    return lowered, state


def _abstract(
    shape: tuple[int, ...], dtype: Any, sharding: jax.sharding.Sharding
) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _with_sharding(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    return jax.tree.map(lambda leaf: _abstract(leaf.shape, leaf.dtype, sharding), tree)
