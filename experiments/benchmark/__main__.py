"""Times a distillation step beside PyTorch's: one table, of one run on one machine.

    python -m experiments.benchmark --torch_python=PYTHON
    python -m experiments.benchmark --torch_python=PYTHON --cores=0 --sizes=cifar

PYTHON is an interpreter with torch and torchvision; without one, PyTorch is left out. A reader is a
process that times one implementation of the step. All readers of a size of images start one after
the other, compile, and then take turns, round by round. On a GPU, for which rrd_jax is installed
with its extra cuda13 or cuda12, networks and sets are those of the published pairs; a CPU gets
small ones, of which only ratios count. PyTorch comes in the variants that its users would try, and
the fastest of each row counts. The tables go to <workdir>/speed.md, and every figure, as soon as
there is one, to <workdir>/speed.json.
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
from rrd_jax.terminal import cli

_TORCH = flags.DEFINE_string("torch_python", "", "An interpreter with torch and torchvision.")
_SIZES = flags.DEFINE_list(
    "sizes",
    ["cifar", "imagenet", "transformer", "mobile"],
    "Two sizes of images, and at the second a ViT that teaches and a MobileNetV3 that learns.",
)
_PRECISIONS = flags.DEFINE_list(
    "precisions",
    [],
    "float32, bfloat16, or teacher: bfloat16 for it alone; none for what the processor has.",
)
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", [], "Images a step; none for what suits the size.")
_STEPS = flags.DEFINE_integer(
    "steps", 0, "The fewest steps a round, in whole epochs; 0 for what suits.", lower_bound=0
)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds over all.", lower_bound=1)
_CORES = flags.DEFINE_list(
    "cores", ["1"], "On a CPU, cores that all share; 0 for all; several for several tables."
)
_WORKDIR = flags.DEFINE_string("workdir", "runs/speed-benchmark", "Results, and what readers say.")


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
                        f"--batch_sizes has {batch_size}, but the set has {size.examples:,} images"
                    )
                for precision in precisions:
                    errors.lookup("precision", precision, rows.PRECISIONS)
                    options = {"steps": _STEPS.value, "torch_python": _TORCH.value}
                    groups.append(Group(name, size, batch_size, precision, cores=cores, **options))
    return groups


def _numbers(flag: str, values: Any, *, least: int) -> list[int]:
    for value in map(str, values):
        if not value.isdecimal() or int(value) < least:
            raise errors.InputError(f"--{flag} has '{value}', but must be from {least} on")
    return list(map(int, values))


def _platform() -> str:
    """Returns the platform of both libraries, such as cpu.

    Raises:
      InputError: an interpreter cannot be used, or the two compute on different devices.
    """
    ours = machine.run_line(sys.executable, "import jax; print(jax.default_backend())")
    if _TORCH.value:
        program = "import torch, torchvision; print('gpu' if torch.cuda.is_available() else 'cpu')"
        theirs = machine.run_line(_TORCH.value, program)
        if theirs != ours:
            raise errors.InputError(
                f"torch of {_TORCH.value} computes on a {theirs}, jax on a {ours}: install both for"
                " the same device, or hide a GPU from both by CUDA_VISIBLE_DEVICES="
            )
    return ours


def _text(figures: list[dict[str, Any]], load: float, *, on_cpu: bool) -> str:
    """The tables, what they say, and where they come from; load is that before the first reader."""
    known = [ready for group in figures for ready in group["ready"].values()]
    versions = dict(pair for ready in known for pair in ready["versions"].items())
    lines = [
        table.summary(figures),
        "",
        f"'Ours / fastest PyTorch': how many times as fast our step of {LOSS} is, the median over"
        f" {_REPEATS.value} rounds in turns, with the least and the most. Of the other figures with"
        " a stroke the first is ours: what a step holds and takes; compilation and a first epoch,"
        " for which variants of PyTorch share the kernels that they have in common.",
        "",
        table.readers(figures),
        "",
        f"'Ours / it': how many times as fast {LOSS} of ours is, with the teacher as it has it."
        " A star: the fastest PyTorch. K = 16 384 rows.",
        "",
    ]
    for group in figures:
        lines += [f"- {line}" for line in table.remarks(group)]
    lines += [
        "",
        f"{datetime.date.today()}, {machine.processor(known[0]['device'])}, {os.cpu_count()} cores,"
        f" {platform.machine()}; Python {platform.python_version()},"
        f" {', '.join(f'{name} {version}' for name, version in versions.items())}; load {load:.1f}"
        f" before, {os.getloadavg()[0]:.1f} after, ours included.",
        "",
        f"    {machine.command('experiments.benchmark')}",
    ]
    if not _TORCH.value:
        names = rows.peers("float32", crops=True, on_cpu=on_cpu)
        lines += ["", f"Left out, no interpreter given: {'; '.join(names)}."]
    return "\n".join(lines)


def _job() -> None:
    workdir = pathlib.Path(_WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    on_cpu = _platform() == "cpu"
    groups = _groups(on_cpu)
    figures = [group.figures for group in groups]
    load = os.getloadavg()[0]

    def keep():
        atomic_write.write_json(workdir / "speed.json", figures)

    for group in groups:
        group.measure(workdir, _REPEATS.value, keep)
    text = _text(figures, load, on_cpu=on_cpu)
    atomic_write.write_text(workdir / "speed.md", text + "\n")
    print(f"\n{text}\n\nkept in {workdir / 'speed.md'} and {workdir / 'speed.json'}")


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_job, stopped="stopped; what was measured is in speed.json of the workdir")


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
