"""Compiles train steps for TPUs on a machine without TPUs: memory, collectives and FLOPs per chip.

    python -m experiments.tpu_aot
    python -m experiments.tpu_aot --config=configs/cifar100.py:vgg13-vgg8 --topologies=v5e:2x4
    python -m experiments.tpu_aot --large=all --topologies=v5e:2x4,v6e:2x4 --memory=0

libtpu's ahead-of-time compiler produces the programs that the chips would run. The table is written
to <workdir>/tpu_aot.md, its values to <workdir>/tpu_aot.json, and the compiler's input (.mlir) and
output (.hlo) for each program to <workdir>.
"""

import importlib.metadata
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

# This process computes on the CPU; the compiler gets the names of TPU topologies.
os.environ["JAX_PLATFORMS"] = "cpu"

from absl import app, flags

from experiments.tpu_aot import large, steps, table
from experiments.tpu_aot.steps import Step
from rrd_jax import errors
from rrd_jax.run_folder import atomic_write
from rrd_jax.terminal import cli, path_flags

_CONFIGS = flags.DEFINE_multi_string(
    "config",
    ["configs/cifar100.py:vgg13-vgg8", "configs/imagenet_r34_r18.py"],
    "Config file with a teacher, as FILE or FILE:STRING; may be repeated.",
)
_LARGE = flags.DEFINE_list(
    "large",
    [],
    f"Compile large students and teachers instead of --config: all, or {', '.join(large.CASES)}.",
)
_TOPOLOGIES = flags.DEFINE_list(
    "topologies", ["v5e:2x4", "v5p:2x2x1"], "Topologies in libtpu's names."
)
_MEMORY = flags.DEFINE_integer(
    "memory",
    2**20,
    "Rows of the memory in a step of RRD alone with 256 images, on one chip; 0 for no such step.",
)
_WORKDIR = path_flags.define_path("workdir", "runs/tpu-aot", "Folder for programs and results.")


def measure(step: Step, folder: pathlib.Path) -> dict[str, Any]:
    """Compiles a step, writes its programs to a folder, and returns its figures for one chip."""
    start = time.monotonic()
    compiled = step.lowered.compile()
    seconds, program = time.monotonic() - start, compiled.as_text()
    (folder / f"{step.name}.mlir").write_text(step.lowered.as_text())
    (folder / f"{step.name}.hlo").write_text(program)
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    parts = {
        "arguments": memory.argument_size_in_bytes,
        # Outputs that do not reuse the memory of an argument.
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
    }
    return {
        "chips": step.mesh.size,
        "kind": step.mesh.devices.flat[0].device_kind,
        "batch_size": step.batch_size,
        "bytes": parts | {"peak": sum(parts.values())},
        "collectives": table.collectives(program),
        "flops": {"xla": costs["flops"], "counted": step.flops / step.mesh.size},
        "moved": costs["bytes accessed"],
        "cycles": table.cycles(program),
        "teacher_cycles": table.cycles(program, scope="teacher"),
        "seconds": seconds,
    }


def _steps() -> Iterator[Step]:
    chosen = large.CASES if _LARGE.value == ["all"] else _LARGE.value
    cases = {name: errors.lookup("step of --large", name, large.CASES) for name in chosen}
    if not cases:
        cases = {name: (name, {}) for name in filter(None, _CONFIGS.value)}
    for topology in _TOPOLOGIES.value:
        for name, (config_file, fields) in cases.items():
            plan = steps.parse_job(config_file, **fields)
            mesh = steps.make_mesh(topology, axes=plan.student.training.mesh)
            step = steps.train_step(plan, mesh)
            name = name if name in large.CASES else step.name
            yield step._replace(name=f"{name}-{topology.replace(':', '-')}")
    if _MEMORY.value:
        mesh = steps.make_mesh(_TOPOLOGIES.value[0], chips=1)
        yield steps.memory_step(mesh, _MEMORY.value)


def _job() -> None:
    folder = pathlib.Path(_WORKDIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    results = {}
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    text = ""
    for step in _steps():
        results[step.name] = figures = measure(step, folder)
        print(f"[{step.name}] compiled in {figures['seconds']:.0f} s", flush=True)
        text = f"{table.summary(results)}\n\n{listed}."
        atomic_write.write_text(folder / "tpu_aot.md", text + "\n")
        atomic_write.write_json(folder / "tpu_aot.json", {"versions": versions, "steps": results})
    print(f"\n{text}\n\nwritten to {folder / 'tpu_aot.md'} and {folder / 'tpu_aot.json'}")


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_job, stopped="stopped; only programs were written")


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
