"""Compiles the real train steps for TPUs where there is none: a chip's memory, collectives, FLOPs.

    python experiments/tpu_aot.py
    python experiments/tpu_aot.py --config=configs/cifar100.py:vgg13-vgg8 --topologies=v5e:2x4

libtpu's ahead-of-time compiler makes the program that the chips would run. The table goes to
<workdir>/tpu_aot.md, its figures to <workdir>/tpu_aot.json, and each program to <workdir> as it is
given to the compiler (.mlir) and as that leaves it (.hlo).
"""

import importlib.metadata
import importlib.util
import math
import os
import pathlib
import re
import runpy
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"  # of this process; the compiler is asked for TPUs by name
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no chip is used: nobody need wait for another

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.experimental import topologies
from ml_collections import ConfigDict

from rrd_jax import cli, errors, networks, objectives, parallel, program, recipes, report, train
from rrd_jax.data import augment
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

# Images for training, and classes.
_SETS = {"cifar100": (50_000, 100), "imagenet2012": (1_281_167, 1000)}
_HBM = {"TPU v4": 32, "TPU v5 lite": 16, "TPU v5": 95, "TPU v6 lite": 32}  # GB a chip
_COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)
_ARRAY = re.compile(r"\b[a-z]+[a-z\d]*\[[\d,]*\]")


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
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).split("\n")[0]
        raise errors.InputError(f"no topology '{topology}', such as v5e:2x4: {reason}") from error
    return parallel.make_mesh(list(found.devices)[:chips])


def train_step(config: ConfigDict, mesh: jax.sharding.Mesh) -> Step:
    """The step that a run of the config compiles, with what the run hands to it."""
    train.check(config)
    examples, num_classes = errors.lookup("data set", config.data.name, _SETS)
    size, side = config.train.batch_size, config.data.image_size
    parallel.check_batch(mesh, size, config.train.accumulate)
    image_shape, steps_per_epoch = (side, side, len(config.data.mean)), examples // size
    platform = mesh.devices.flat[0].platform
    recipe = recipes.from_config(config, "", num_classes, examples, platform)
    (chosen,) = recipes.teachers(config)
    teacher = recipes.create_network(
        config, chosen.model, num_classes, platform, dtype=chosen.dtype
    )
    resident = config.data.augment not in augment.HOST  # both sets, where it may be
    built = program.build(
        recipe, mesh, image_shape, steps_per_epoch, resident=resident, teacher=teacher
    )
    everywhere, split = parallel.replicated(mesh), parallel.split(mesh)
    variables = jax.eval_shape(
        lambda key: fold.fold(teacher, networks.init(teacher, key, image_shape), image_shape),
        built.abstract.key,
    )
    if resident:
        batch = {
            "image": _abstract((examples, math.prod(image_shape)), jnp.uint8, everywhere),
            "label": _abstract((examples,), jnp.int32, everywhere),
            "order": _abstract((steps_per_epoch, size), jnp.int32, parallel.split(mesh, axis=1)),
        }
    else:
        batch = {
            "image": _abstract((size, *image_shape), jnp.uint8, split),
            "label": _abstract((size,), jnp.int32, split),
            "index": _abstract((size,), jnp.int32, split),
        }
    macs = [networks.summarize(n, image_shape).macs for n in (teacher, recipe.student)]
    return Step(
        config.name,
        (built.train_steps or built.train_step).lower(
            built.abstract, _placed(variables, everywhere), batch
        ),
        mesh,
        size,
        2 * size * (macs[0] + 3 * macs[1]),  # backwards, each product has two gradients
    )


def memory_step(mesh: jax.sharding.Mesh, rows: int, batch_size: int = 256) -> Step:
    """RRD alone, with its gradients, between networks of 512 features such as ResNet-34 and 18."""
    rrd = objectives.create("rrd", queue_size=rows)
    network = networks.create("resnet18", 1000)
    images = jax.ShapeDtypeStruct((batch_size, 32, 32, 3), jnp.float32)  # of any size
    outputs, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
    own = jax.eval_shape(lambda: rrd.init(jax.random.key(0), outputs, outputs))

    def step(memory, own, student, teacher):
        def mean(params, embedding):
            losses, pushed = rrd.loss(
                own._replace(params=params, memory=memory),
                student._replace(embedding=embedding),
                teacher,
                {},
            )
            return jnp.mean(losses), pushed

        return jax.grad(mean, argnums=(0, 1), has_aux=True)(own.params, student.embedding)

    own, outputs = _placed((own, outputs), parallel.replicated(mesh))
    lowered = jax.jit(step, donate_argnums=0).lower(
        own.memory, own._replace(memory=()), outputs, outputs
    )
    # Student and teacher: similarities, and the mean row that is the gradient's direction.
    flops = 4 * 2 * batch_size * own.memory.rows.size
    return Step(f"rrd-alone-memory-{rows}", lowered, mesh, batch_size, flops)


def collectives(text: str) -> dict[str, list[list[str]]]:
    """By kind, what each collective of an HLO module brings forth, such as ["f32[64,128]"]."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in text.split("\n"):
        if match := _COLLECTIVE.search(line):
            # One that is fused with a product stands there in several parts, of the same channel.
            channel = re.search(r"channel_id=(\d+)", line)
            found.setdefault(match[2], {})[channel[0] if channel else line] = _ARRAY.findall(
                match[1]
            )
    return {kind: list(by_channel.values()) for kind, by_channel in sorted(found.items())}


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
        "collectives": collectives(compiled.as_text()),
        "flops": {
            "xla": compiled.cost_analysis()["flops"],
            "counted": step.flops / step.mesh.size,
        },
        "seconds": seconds,
    }


def summary(results: dict[str, dict[str, Any]]) -> str:
    """A row for each step; sizes and FLOPs are of one chip."""
    header = (
        "step",
        "chips",
        "batch",
        "HBM, GB",
        "peak, MB",
        "arguments",
        "outputs",
        "temporaries",
        "program",
        "GFLOP by XLA",
        "counted",
        "collectives: number, largest array",
        "compiled in s",
    )
    rows = []
    for name, found in results.items():
        names = ("peak", "arguments", "outputs", "temporaries", "program")
        rows.append(
            (
                name,
                f"{found['chips']} {found['kind']}",
                found["batch_size"],
                _HBM.get(found["kind"], "?"),
                *(f"{found['bytes'][part] / 1e6:.1f}" for part in names),
                f"{found['flops']['xla'] / 1e9:.1f}",
                f"{found['flops']['counted'] / 1e9:.1f}",
                "; ".join(_described(*item) for item in found["collectives"].items()) or "-",
                f"{found['seconds']:.0f}",
            )
        )
    return report.table(header, rows)


def _described(kind: str, each: list[list[str]]) -> str:
    largest = max((array for arrays in each for array in arrays), key=_bytes)
    return f"{len(each)} {kind}, {largest}"


def _bytes(array: str) -> int:
    dtype, shape = array.removesuffix("]").split("[")
    width = 8 if dtype == "pred" else int(re.sub(r"\D*(\d+).*", r"\1", dtype))
    return math.prod(int(n) for n in shape.split(",") if n) * width // 8


def _abstract(
    shape: tuple[int, ...], dtype: Any, sharding: jax.sharding.Sharding
) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _placed(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    return jax.tree.map(lambda leaf: _abstract(leaf.shape, leaf.dtype, sharding), tree)


def _config(named: str) -> ConfigDict:
    path, _, argument = named.partition(":")
    config = runpy.run_path(path)["get_config"](argument)
    if len(recipes.teachers(config)) != 1:
        raise errors.InputError(f"'{named}' must have one teacher; name a pair TEACHER-STUDENT")
    return config


def _steps() -> Iterator[Step]:
    for topology in _TOPOLOGIES.value:
        mesh = make_mesh(topology)
        for named in _CONFIGS.value:
            step = train_step(_config(named), mesh)
            yield step._replace(name=f"{step.name}-{topology.replace(':', '-')}")
    if _MEMORY.value:
        yield memory_step(make_mesh(_TOPOLOGIES.value[0], chips=1), _MEMORY.value)


def _job() -> None:
    folder = pathlib.Path(_WORKDIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for step in _steps():
        results[step.name] = found = measure(step, folder)
        print(f"[{step.name}] compiled in {found['seconds']:.0f} s", flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}
    text = f"{summary(results)}\n\n{', '.join(f'{k} {v}' for k, v in versions.items())}."
    report.write_whole(folder / "tpu_aot.md", text + "\n")
    report.write_json(folder / "tpu_aot.json", {"versions": versions, "steps": results})
    print(f"\n{text}\n\nkept in {folder / 'tpu_aot.md'} and {folder / 'tpu_aot.json'}")


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_job, stopped="stopped; nothing is kept but the programs")


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
