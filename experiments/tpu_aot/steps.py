"""Train steps, traced for TPUs that need not exist."""

import importlib.util
import math
import os
import runpy
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

# Images for training, and classes. All are in colour.
_SETS = {"cifar100": (50_000, 100), "imagenet2012": (1_281_167, 1000)}


class Step(NamedTuple):
    """A step that is traced, not compiled yet.

    Attributes:
      name: of its files.
      lowered: by JAX, for the mesh.
      mesh: of a topology's chips.
      batch_size: images a step.
      flops: of the networks' convolutions and matrices, or of the loss's, in a step on all chips.
    """

    name: str
    lowered: jax.stages.Lowered
    mesh: jax.sharding.Mesh
    batch_size: int
    flops: float


def make_mesh(topology: str, chips: int | None = None) -> jax.sharding.Mesh:
    """The mesh of a run on all, or the first, chips of a topology.

    Raises:
      InputError: libtpu is missing, or does not know the topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise errors.InputError(
            "libtpu is not installed; pip install -e '.[test]' has it, on Linux x86_64"
        )
    # No chip is used: nobody need wait for another process that has libtpu.
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).split("\n")[0]
        raise errors.InputError(f"no topology '{topology}', such as v5e:2x4: {reason}") from error
    return parallel.make_mesh(list(devices)[:chips])


def parse_job(named: str) -> Job:
    """The job of a config file with options behind a colon, for TPUs."""
    path, _, argument = named.partition(":")
    config = runpy.run_path(path)["get_config"](argument)
    config.baseline = bool(config.teacher.model)
    plan = parse(config, platform="tpu")
    if len(plan.teachers) != 1:
        raise errors.InputError(f"'{named}' must have one teacher; name a pair TEACHER-STUDENT")
    return plan


def train_step(plan: Job, mesh: jax.sharding.Mesh) -> Step:
    """Lowers the step that a job's student run compiles.

    Args:
      plan: a job with one teacher, parsed for a TPU.
      mesh: of a topology's chips.

    Raises:
      InputError: the size of the data set is not known here, or the batch does not fit the mesh.
    """
    part = plan.student
    training, source = part.training, part.source
    examples, num_classes = errors.lookup("data set", source.name, _SETS)
    size, image_shape = training.batch_size, (source.image_size, source.image_size, 3)
    parallel.check_batch(mesh, size, training.accumulate)
    student_recipe = recipe.create(training, num_classes, examples)
    teacher = plan.teachers[0].network.create(num_classes)
    resident = not source.crops_on_host  # both sets, where it may be
    built = program.build(
        student_recipe, mesh, image_shape, examples // size, resident=resident, teacher=teacher
    )
    variables = jax.eval_shape(
        lambda key: fold.fold(teacher, networks.init(teacher, key, image_shape), image_shape),
        built.abstract.key,
    )
    variables = _placed(variables, parallel.replicated(mesh))
    batch = _step_input(mesh, examples, size, image_shape, resident=resident)
    step = built.train_steps or built.train_step
    # Backwards, each product has two gradients.
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
    """What a step is given, as shapes: a resident split or a batch of a streamed one."""
    by_example = parallel.split(mesh)
    if not resident:
        return Batch(
            image=_abstract((size, *image_shape), jnp.uint8, by_example),
            label=_abstract((size,), jnp.int32, by_example),
            index=_abstract((size,), jnp.int32, by_example),
        )
    everywhere = parallel.replicated(mesh)
    return Split(
        image=_abstract((examples, math.prod(image_shape)), jnp.uint8, everywhere),
        label=_abstract((examples,), jnp.int32, everywhere),
        order=_abstract((examples // size, size), jnp.int32, parallel.split(mesh, axis=1)),
    )


def memory_step(mesh: jax.sharding.Mesh, rows: int, batch_size: int = 256) -> Step:
    """RRD alone, with its gradients, between networks of 512 features such as ResNet-34 and 18."""
    rrd = objectives.create("rrd", queue_size=rows)
    images = jax.ShapeDtypeStruct((batch_size, 32, 32, 3), jnp.float32)  # of any size
    outputs = _outputs(networks.create("resnet18", 1000), images)
    lowered, state = _alone(rrd, outputs, outputs, None, mesh)  # a queue reads nothing of the batch
    # Student and teacher: similarities, and the mean row that is the gradient's direction.
    flops = 4 * 2 * batch_size * state.memory.rows.size
    return Step(f"rrd-alone-memory-{rows}", lowered, mesh, batch_size, flops)


def _outputs(network: networks.Network, images: jax.ShapeDtypeStruct) -> Any:
    return jax.eval_shape(network.init_with_output, jax.random.key(0), images)[0]


def _alone(
    objective: objectives.Objective, student: Any, teacher: Any, batch: Batch | None, mesh: Any
) -> tuple[jax.stages.Lowered, objectives.ObjectiveState]:
    """An objective's loss, its gradients and its next memory, for Outputs; and its state."""
    # A gradient of zeros for maps that are not compared would cost more than the loss.
    read = ("logits", "embedding", *(("maps", "preactivations") * objective.needs_maps))

    def step(memory, state, student, teacher, batch):
        def mean(params, parts):
            carried = state._replace(params=params, memory=memory)
            losses, moved = objective.loss(carried, student._replace(**parts), teacher, batch)
            return jnp.mean(losses), moved

        parts = {name: getattr(student, name) for name in read}
        return jax.value_and_grad(mean, argnums=(0, 1), has_aux=True)(state.params, parts)

    state = jax.eval_shape(lambda: objective.init(jax.random.key(0), student, teacher))
    state, *outputs = _placed((state, student, teacher), parallel.replicated(mesh))
    lowered = jax.jit(step, donate_argnums=0).lower(
        state.memory, state._replace(memory=()), *outputs, batch
    )
    return lowered, state


def _abstract(
    shape: tuple[int, ...], dtype: Any, sharding: jax.sharding.Sharding
) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _placed(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    return jax.tree.map(lambda leaf: _abstract(leaf.shape, leaf.dtype, sharding), tree)
