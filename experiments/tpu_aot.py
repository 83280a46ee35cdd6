"""Compiles the train steps for TPUs, without one: memory, collectives and FLOPs of a chip.

    python experiments/tpu_aot.py
    python experiments/tpu_aot.py --config=configs/cifar100.py:vgg13-vgg8 --topologies=v5e:2x4

libtpu's ahead-of-time compiler makes the programs that the chips would run. The table goes to
<workdir>/tpu_aot.md, its figures to <workdir>/tpu_aot.json, and each program to <workdir>: what the
compiler is given (.mlir) and what it makes of that (.hlo).
"""

import importlib.metadata
import importlib.util
import math
import os
import pathlib
import runpy
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"  # of this process; the compiler is asked for TPUs by name
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no chip is used: nobody need wait for another

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for a start by path, without -m

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.experimental import topologies

from experiments import tpu_table
from rrd_jax import cli, errors, networks, objectives, parallel, program, recipe, report
from rrd_jax.batch import Batch
from rrd_jax.config import parse
from rrd_jax.data import augment
from rrd_jax.recipe import Job
from rrd_jax.step import Split
from rrd_jax.teacher import fold

_CONFIGS = flags.DEFINE_multi_string(
    "config",
    ["configs/cifar100.py:vgg13-vgg8", "configs/imagenet_r34_r18.py"],
    "A file of configs/ with a teacher, options behind a colon; may be repeated.",
)
_TOPOLOGIES = flags.DEFINE_list("topologies", ["v5e:2x4", "v5p:2x2x1"], "Chips, as libtpu names.")
_MEMORY = flags.DEFINE_integer(
    "memory", 2**20, "Rows of a memory that RRD alone, of 256 images, walks on one chip; 0: not."
)
_WORKDIR = flags.DEFINE_string("workdir", "runs/tpu-aot", "Programs and results.")

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
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).split("\n")[0]
        raise errors.InputError(f"no topology '{topology}', such as v5e:2x4: {reason}") from error
    return parallel.make_mesh(list(devices)[:chips])


def train_step(plan: Job, mesh: jax.sharding.Mesh) -> Step:
    """The step that a job's student run compiles, with what the run hands to it.

    Args:
      plan: a job with one teacher, parsed for a TPU.
      mesh: of a topology's chips.

    Raises:
      InputError: the size of the data set is not known here, or the batch does not fit the mesh.
    """
    training, source = plan.student.training, plan.student.source
    examples, num_classes = errors.lookup("data set", source.name, _SETS)
    size, image_shape = training.batch_size, (source.image_size, source.image_size, 3)
    parallel.check_batch(mesh, size, training.accumulate)
    student_recipe = recipe.create(training, num_classes, examples)
    teacher = plan.teachers[0].network.create(num_classes)
    resident = source.augment not in augment.HOST  # both sets, where it may be
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
    macs = [networks.summarize(n, image_shape).macs for n in (teacher, student_recipe.student)]
    return Step(
        plan.student.fields["name"],
        step.lower(built.abstract, variables, batch),
        mesh,
        size,
        2 * size * (macs[0] + 3 * macs[1]),  # backwards, each product has two gradients
    )


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
    network = networks.create("resnet18", 1000)
    images = jax.ShapeDtypeStruct((batch_size, 32, 32, 3), jnp.float32)  # of any size
    outputs, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
    state = jax.eval_shape(lambda: rrd.init(jax.random.key(0), outputs, outputs))

    def step(memory, state, student, teacher):
        def mean(params, embedding):
            losses, pushed = rrd.loss(
                state._replace(params=params, memory=memory),
                student._replace(embedding=embedding),
                teacher,
                None,  # a queue reads nothing of the batch
            )
            return jnp.mean(losses), pushed

        return jax.grad(mean, argnums=(0, 1), has_aux=True)(state.params, student.embedding)

    state, outputs = _placed((state, outputs), parallel.replicated(mesh))
    lowered = jax.jit(step, donate_argnums=0).lower(
        state.memory, state._replace(memory=()), outputs, outputs
    )
    # Student and teacher: similarities, and the mean row that is the gradient's direction.
    flops = 4 * 2 * batch_size * state.memory.rows.size
    return Step(f"rrd-alone-memory-{rows}", lowered, mesh, batch_size, flops)


def measure(step: Step, folder: pathlib.Path) -> dict[str, Any]:
    """Compiles a step, keeps both its programs in a folder, and returns its figures for a chip."""
    start = time.monotonic()
    compiled = step.lowered.compile()
    seconds = time.monotonic() - start
    (folder / f"{step.name}.mlir").write_text(step.lowered.as_text())
    (folder / f"{step.name}.hlo").write_text(compiled.as_text())
    memory = compiled.memory_analysis()
    parts = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,  # the others
        "temporaries": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
    }
    return {
        "chips": step.mesh.size,
        "kind": step.mesh.devices.flat[0].device_kind,
        "batch_size": step.batch_size,
        "bytes": parts | {"peak": sum(parts.values())},
        "collectives": tpu_table.collectives(compiled.as_text()),
        "flops": {
            "xla": compiled.cost_analysis()["flops"],
            "counted": step.flops / step.mesh.size,
        },
        "seconds": seconds,
    }


def _abstract(
    shape: tuple[int, ...], dtype: Any, sharding: jax.sharding.Sharding
) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _placed(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    return jax.tree.map(lambda leaf: _abstract(leaf.shape, leaf.dtype, sharding), tree)


def _parse(named: str) -> Job:
    """The job of a config file, for TPUs."""
    path, _, argument = named.partition(":")
    plan = parse(runpy.run_path(path)["get_config"](argument), platform="tpu")
    if len(plan.teachers) != 1:
        raise errors.InputError(f"'{named}' must have one teacher; name a pair TEACHER-STUDENT")
    return plan


def _steps() -> Iterator[Step]:
    for topology in _TOPOLOGIES.value:
        mesh = make_mesh(topology)
        for named in _CONFIGS.value:
            step = train_step(_parse(named), mesh)
            yield step._replace(name=f"{step.name}-{topology.replace(':', '-')}")
    if _MEMORY.value:
        yield memory_step(make_mesh(_TOPOLOGIES.value[0], chips=1), _MEMORY.value)


def _job() -> None:
    folder = pathlib.Path(_WORKDIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for step in _steps():
        results[step.name] = figures = measure(step, folder)
        print(f"[{step.name}] compiled in {figures['seconds']:.0f} s", flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}
    text = f"{tpu_table.summary(results)}\n\n{', '.join(f'{k} {v}' for k, v in versions.items())}."
    report.write_whole(folder / "tpu_aot.md", text + "\n")
    report.write_json(folder / "tpu_aot.json", {"versions": versions, "steps": results})
    print(f"\n{text}\n\nkept in {folder / 'tpu_aot.md'} and {folder / 'tpu_aot.json'}")


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_job, stopped="stopped; nothing is kept but the programs")


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
