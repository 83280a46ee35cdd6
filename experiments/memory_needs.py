"""What a step takes of a CPU's memory, as a run foretells it and as the system counts it.

    python -m experiments.memory_needs

Each config has a process of its own: its step is compiled as a run compiles it, on random images
and weights, and called three times. Foretold are its arguments, results and temporaries (XLA's
plan); counted is how far the process grew meanwhile, with the arguments. The second table has
train.remat and train.accumulate: what they save, and what they cost in time. Tables go to
<workdir>/memory_needs.md, a row as it is known.
"""

import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for a start by path, without -m

from experiments import machine
from rrd_jax import cli, tables

_WORKDIR = flags.DEFINE_string("workdir", "runs/memory-needs", "Results.")
_CASE = flags.DEFINE_string("case", "", "Of this process, as JSON; '' for all, each in its own.")
_ROOT = pathlib.Path(__file__).parents[1]
_CONFIGS = {
    "cifar100: resnet32x4 to resnet8x4, batch 256": (
        "cifar100.py:resnet32x4-resnet8x4,rrd+kd",
        {"train.batch_size": 256},
    ),
    "cifar100: vgg13 to vgg8, batch 256": (
        "cifar100.py:vgg13-vgg8,rrd",
        {"train.batch_size": 256},
    ),
    "cifar100: resnet32x4 to resnet8x4, crd's bank": (
        "cifar100.py:resnet32x4-resnet8x4,crd",
        {"train.batch_size": 128},
    ),
    "cifar100: a memory of 1 048 576 rows": (
        "cifar100.py:resnet8x4-resnet8,rrd",
        {"objectives.rrd.queue_size": 2**20},
    ),
    "imagenet: ResNet-34 to 18, batch 16": (
        "imagenet_r34_r18.py",
        {"train.batch_size": 16},
    ),
    "imagenet: DINOv2's ViT-S to MobileNetV4, batch 8": (
        "unlabelled.py",
        {"train.batch_size": 8, "data.name": "imagenet2012", "data.use_labels": True},
    ),
}
_SAVING = {
    "as it is": {},
    "train.remat=convolutions": {"train.remat": "convolutions"},
    "train.remat=all": {"train.remat": "all"},
    "train.accumulate=2": {"train.accumulate": 2},
    "train.accumulate=4": {"train.accumulate": 4},
}


def _measure(path: str, fields: dict[str, Any]) -> None:
    """Prints the figures of a config's step as JSON."""
    import runpy

    import jax

    from experiments.profile import setting
    from rrd_jax import footprint

    file, _, argument = path.partition(":")
    config = runpy.run_path(str(_ROOT / "configs" / file))["get_config"](argument)
    config.update_from_flattened_dict(fields)
    config.baseline = False
    step = setting.prepare(config, asked=tuple(fields), examples=2 * config.train.batch_size)
    needed = footprint.of(step.compiled)
    before = _status("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(step())
        seconds.append(time.perf_counter() - start)
    counted = _status("VmHWM") - before + needed.arguments
    print(json.dumps({"foretold": needed.peak, "counted": counted, "seconds": min(seconds)}))


def _status(name: str) -> int:
    """Bytes of this process, by a name of /proc/self/status."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _figures(path: str, fields: dict[str, Any]) -> dict[str, float]:
    """What `_measure` prints in a process of its own."""
    case = json.dumps([path, fields])
    command = [sys.executable, "-m", "experiments.memory_needs", f"--case={case}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=_ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def _job() -> None:
    if _CASE.value:
        _measure(*json.loads(_CASE.value))
        return
    path = pathlib.Path(_WORKDIR.value) / "memory_needs.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    foretold, saving = [], []
    for name, case in _CONFIGS.items():
        found = _figures(*case)
        ratio = f"{found['foretold'] / found['counted']:.2f}"
        foretold.append([name, *(f"{found[k] / 1e9:.2f}" for k in ("foretold", "counted")), ratio])
        _write(path, foretold, saving)
    base: dict[str, float] = {}
    for name, fields in _SAVING.items():
        config, given = _CONFIGS["imagenet: ResNet-34 to 18, batch 16"]
        found = _figures(config, {**given, **fields})
        base = base or found
        ratios = [f"{found[key] / base[key]:.2f}" for key in ("foretold", "counted", "seconds")]
        saving.append([name, f"{found['foretold'] / 1e9:.2f}", *ratios])
        _write(path, foretold, saving)


def _write(path: pathlib.Path, foretold: list[list[str]], saving: list[list[str]]) -> None:
    cores = len(os.sched_getaffinity(0))
    head = (
        "# What a step takes of memory\n\n"
        f"`{machine.command('experiments.memory_needs')}`, {datetime.date.today()},"
        f" {machine.processor()}, {cores} cores, {machine.versions('jax', 'jaxlib')}; float32."
    )
    parts = [
        head,
        tables.markdown(["config", "foretold, GB", "counted, GB", "ratio"], foretold),
    ]
    if saving:
        header = ["ImageNet, ResNet-34 to 18, batch 16", "foretold, GB", "foretold, times"]
        parts.append(tables.markdown([*header, "counted, times", "a step's time, times"], saving))
        parts.append("Times are of the first row; a step's is the best of three.")
    path.write_text("\n\n".join(parts) + "\n")
    ratios = [float(row[-1]) for row in foretold]
    print(f"{len(ratios)} configs, ratio {min(ratios):.2f} to {max(ratios):.2f}", flush=True)
    if len(ratios) > 2:
        print(f"median {statistics.median(ratios):.2f}", flush=True)


def main(argv: list[str]) -> None:
    """Keeps tables."""
    del argv
    cli.guard(_job)


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
