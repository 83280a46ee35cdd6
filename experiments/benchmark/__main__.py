"""Times a distillation step and compares it with PyTorch on one machine.

    python -m experiments.benchmark --torch_python=PYTHON
    python -m experiments.benchmark --torch_python=PYTHON --cores=0 --sizes=cifar

PYTHON is an interpreter with torch and torchvision; without it, PyTorch is not measured. A reader
is a process that times one implementation of the step. All readers for a size of images start one
after the other, compile, and then take turns, round by round. On a GPU, which needs the extra
cuda13 or cuda12 of rrd_jax, networks and data sets are those of published pairs. On a CPU they are
small, and only ratios are meaningful. PyTorch is measured in several common variants; the fastest
variant of each row counts. The tables are written to <workdir>/speed.md, and all figures, as soon
as they are measured, to <workdir>/speed.json.
"""

import datetime
import os
import pathlib
import platform
import sys
from typing import Any

from absl import app, flags

from experiments.benchmark import machine, rows, table
from experiments.benchmark.group import Group
from experiments.benchmark.rows import LOSS
from rrd_jax import errors
from rrd_jax.run_folder import atomic_write
from rrd_jax.terminal import cli, path_flags

_TORCH = flags.DEFINE_string(
    "torch_python", "", "Interpreter with torch and torchvision; none if empty."
)
_SIZES = flags.DEFINE_list(
    "sizes",
    ["cifar", "imagenet", "transformer", "mobile"],
    "Rows: two sizes of images; the larger size with a ViT teacher; with a MobileNetV3 student.",
)
_PRECISIONS = flags.DEFINE_list(
    "precisions",
    [],
    "float32, bfloat16, or teacher: bfloat16 for the teacher only; empty for what the device has.",
)
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", [], "Images per step; empty for the size's.")
_STEPS = flags.DEFINE_integer(
    "steps", 0, "Minimum steps per round, in whole epochs; 0 for the size's.", lower_bound=0
)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds over all readers.", lower_bound=1)
_CORES = flags.DEFINE_list(
    "cores",
    ["1"],
    "Number of cores on a CPU, shared by all readers; 0 for all. Several make several rows.",
)
_WORKDIR = path_flags.define_path("workdir", "runs/speed-benchmark", "Folder for results and logs.")


def _groups(on_cpu: bool) -> list[Group]:
    sizes, groups = rows.sizes(on_cpu), []
    precisions = _PRECISIONS.value or rows.precisions(on_cpu)
    for cores in _numbers("cores", _CORES.value, least=0) if on_cpu else [None]:
        for name in _SIZES.value:
            size = errors.lookup("size", name, sizes)
            batch_sizes = _numbers("batch_sizes", _BATCH_SIZES.value or size.batch_sizes, least=1)
            for batch_size in batch_sizes:
                if size.examples and batch_size > size.examples:
                    raise errors.InputError(
                        f"--batch_sizes has {batch_size}, but the data set has {size.examples:,}"
                        " images; set a smaller batch size"
                    )
                for precision in precisions:
                    errors.lookup("precision", precision, rows.PRECISIONS)
                    group = Group(
                        name,
                        size,
                        batch_size,
                        precision,
                        steps=_STEPS.value,
                        cores=cores,
                        torch_python=_TORCH.value,
                    )
                    groups.append(group)
    return groups


def _numbers(flag: str, values: Any, *, least: int) -> list[int]:
    for value in map(str, values):
        if not value.isdecimal() or int(value) < least:
            raise errors.InputError(f"--{flag} has '{value}'; set integers of at least {least}")
    return list(map(int, values))


def _platform() -> str:
    """Returns the platform of both libraries, such as cpu.

    Raises:
      InputError: an interpreter cannot be used, or the libraries use different devices.
    """
    jax_platform = machine.run_line(sys.executable, "import jax; print(jax.default_backend())")
    if _TORCH.value:
        program = "import torch, torchvision; print('gpu' if torch.cuda.is_available() else 'cpu')"
        torch_platform = machine.run_line(_TORCH.value, program)
        if torch_platform != jax_platform:
            raise errors.InputError(
                f"torch of {_TORCH.value} computes on a {torch_platform}, jax on a {jax_platform};"
                " install both for one device, or hide the GPU from both by CUDA_VISIBLE_DEVICES="
            )
    return jax_platform


def _text(figures: list[dict[str, Any]], load: float, *, on_cpu: bool) -> str:
    """Returns the tables, their explanation and the origin of the figures.

    Args:
      figures: `figures` of all groups.
      load: load of the machine before the first reader.
      on_cpu: True for a CPU.
    """
    reports = [ready for group in figures for ready in group["ready"].values()]
    versions = dict(pair for ready in reports for pair in ready["versions"].items())
    lines = [
        table.summary(figures),
        "",
        f"'speed ratio to fastest PyTorch': the speed of rrd_jax in a step of {LOSS}, relative to"
        f" the fastest variant of PyTorch: the median over {_REPEATS.value} alternating rounds,"
        " with minimum and maximum. In columns with a slash, the first number is that of rrd_jax."
        " 'peak MB': memory of the state and the step. 'time to ready': compilation and a first"
        " epoch, for which variants of PyTorch share their common kernels.",
        "",
        table.reader_table(figures),
        "",
        f"'rrd_jax / reader': the speed of rrd_jax in a step of {LOSS}, with a live or cached"
        " teacher as in the row, relative to the reader. A star marks the fastest PyTorch."
        " K = 16 384 rows.",
        "",
    ]
    for group in figures:
        lines += [f"- {line}" for line in table.remarks(group)]
    lines += [
        "",
        f"{datetime.date.today()}, {machine.processor(reports[0]['device'])},"
        f" {os.cpu_count()} cores, {platform.machine()}; Python {platform.python_version()},"
        f" {', '.join(f'{name} {version}' for name, version in versions.items())}; load {load:.1f}"
        f" before, {os.getloadavg()[0]:.1f} after, including the benchmark.",
        "",
        f"    {machine.command('experiments.benchmark')}",
    ]
    if not _TORCH.value:
        names = rows.peers("float32", crops=True, on_cpu=on_cpu)
        lines += ["", f"Not measured without --torch_python: {'; '.join(names)}."]
    return "\n".join(lines)


def _job() -> None:
    workdir = pathlib.Path(_WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    on_cpu = _platform() == "cpu"
    groups = _groups(on_cpu)
    figures = [group.figures for group in groups]
    load = os.getloadavg()[0]

    def save():
        atomic_write.write_json(workdir / "speed.json", figures)

    for group in groups:
        group.measure(workdir, _REPEATS.value, save)
    text = _text(figures, load, on_cpu=on_cpu)
    atomic_write.write_text(workdir / "speed.md", text + "\n")
    print(f"\n{text}\n\nwritten to {workdir / 'speed.md'} and {workdir / 'speed.json'}")


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_job, stopped="stopped; finished measurements are in speed.json in the workdir")


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
