"""What a step takes of a CPU's memory, as a run foretells it and as the system counts it.

    python -m experiments.memory_needs

Each case has a process of its own: a config's step is compiled as a run compiles it, on random
images and weights, and called a few times. Foretold is what a run says before its first step.
Counted is the highest memory of the process during these calls, less that before them, plus the
step's arguments, which were there already. What the allocator holds and nobody uses is given back
to the system before; else a step would take it again unseen. The second table has train.remat and
train.accumulate, with the time that all cores together spend on a step, the least but the first,
which other programs disturb less than the clock; the third what each field saves
that a run names where a step does not fit, as foretold, where nothing but the field differs.

Figures are kept in <workdir>/figures.json, so that a second start goes on where the first ended;
tables go to <workdir>/memory_needs.md, a row as it is known.
"""

import ctypes
import datetime
import gc
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for a start by path, without -m

from experiments import machine
from rrd_jax.terminal import cli, tables

_WORKDIR = flags.DEFINE_string("workdir", "runs/memory-needs", "Results.")
_TABLES = flags.DEFINE_list("tables", ["foretold", "named", "saving"], "Those to make.")
_CASE = flags.DEFINE_string("case", "", "Of this process, as JSON; '' for all, each in its own.")
_ROOT = pathlib.Path(__file__).parents[1]
_RESNETS = ("cifar100.py:resnet32x4-resnet8x4,rrd+kd", {"train.batch_size": 256})
_IMAGENET = ("imagenet_r34_r18.py", {"train.batch_size": 16})
_TRANSFORMERS = (
    "vit_to_resnet.py:vit_small_patch16_224-vit_tiny_patch16_224,rrd+kd",
    {"train.batch_size": 16},
)
_DINO = (
    "dinov2_to_mobilenetv4.py:vit_small_patch14_dinov2-mobilenetv4_conv_small",
    {"train.batch_size": 8, "teacher.image_size": None},
)
_MEMORY = ("cifar100.py:resnet8x4-resnet8,rrd", {"objectives.rrd.queue_size": 2**20})
_CONFIGS = {
    "CIFAR-100: resnet32x4 to resnet8x4, rrd+kd, batch 256": _RESNETS,
    "the same in bfloat16": (_RESNETS[0], {**_RESNETS[1], "dtype": "bfloat16"}),
    "CIFAR-100: vgg13 to vgg8, rrd, batch 256": (
        "cifar100.py:vgg13-vgg8,rrd",
        {"train.batch_size": 256},
    ),
    "CIFAR-100: resnet32x4 to resnet8x4, crd, batch 128": (
        "cifar100.py:resnet32x4-resnet8x4,crd",
        {"train.batch_size": 128},
    ),
    "CIFAR-100: resnet8x4 to resnet8, a memory of 1 048 576 rows, batch 64": _MEMORY,
    "ImageNet: ResNet-34 to 18, rrd+kd, batch 16": _IMAGENET,
    "ImageNet: DINOv2's ViT-S to MobileNetV4, batch 8": _DINO,
    "ImageNet: ViT-S to ViT-Ti, rrd+kd, batch 16": _TRANSFORMERS,
}
_SAVED = {
    "ResNet-34 to 18, batch 32": (_IMAGENET[0], {"train.batch_size": 32}),
    "ViT-S to ViT-Ti, batch 16": _TRANSFORMERS,
}
_SAVING = {
    "as it is": {},
    "train.remat=convolutions": {"train.remat": "convolutions"},
    "train.remat=all": {"train.remat": "all"},
    "train.accumulate=4": {"train.accumulate": 4},
}
# What a run names where a step does not fit: the case with it, and how it was before.
_LARGE = {**_RESNETS[1], "objectives.rrd.queue_size": 2**18}
_NAMED = {
    "a smaller train.batch_size": (_IMAGENET[0], {"train.batch_size": 8}, _IMAGENET[1]),
    "a smaller objectives.rrd.queue_size": (
        _MEMORY[0],
        {"objectives.rrd.queue_size": 2**16},
        _MEMORY[1],
    ),
    "objectives.rrd.chunk=None": (
        _RESNETS[0],
        _LARGE,
        {**_LARGE, "objectives.rrd.chunk": 0},
    ),
    "objectives.rrd.memory=fifo": (
        _RESNETS[0],
        {**_RESNETS[1], "data.mock_examples": 50_000, "teacher.cache": "off"},
        {
            **_RESNETS[1],
            "data.mock_examples": 50_000,
            "teacher.cache": "off",
            "objectives.rrd.memory": "momentum_reference",
        },
    ),
    "teacher.cache=off": (
        _MEMORY[0],
        {"data.mock_examples": 5_000, "teacher.cache": "off"},
        {"data.mock_examples": 5_000, "teacher.cache": "on"},
    ),
    "data.feed=streamed": (
        _MEMORY[0],
        {"data.mock_examples": 50_000, "teacher.cache": "off", "data.feed": "streamed"},
        {"data.mock_examples": 50_000, "teacher.cache": "off", "data.feed": "resident"},
    ),
}


def _measure(path: str, fields: dict[str, Any], calls: int) -> None:
    """Prints the figures of a config's step as JSON."""
    import runpy

    from experiments.profile import setting
    from rrd_jax.cpu import footprint

    file, _, argument = path.partition(":")
    config = runpy.run_path(str(_ROOT / "configs" / file))["get_config"](argument)
    config.update_from_flattened_dict(fields)
    config.baseline = False
    examples = fields.get("data.mock_examples", 2 * config.train.batch_size)
    step = setting.prepare(config, asked=tuple(fields), examples=examples)
    needed = footprint.of(step.compiled)
    figures = {"foretold": needed.peak, "libraries": needed.libraries}
    if calls:
        figures |= _counted(step, needed.arguments, calls)
    print(json.dumps(figures))


def _counted(step: Any, arguments: int, calls: int) -> dict[str, float]:
    """Bytes at the peak of some calls, and the processor seconds of one, the first left out."""
    import jax

    jax.block_until_ready((step.state, step.teacher, step.batch))
    before = _settled()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    seconds = []
    for _ in range(calls):
        start = time.process_time()
        jax.block_until_ready(step())
        seconds.append(time.process_time() - start)
    counted = _status("VmHWM") - before + arguments
    return {"counted": counted, "seconds": min(seconds[1:])}


def _settled() -> int:
    """Bytes of this process, once nothing more of it is given back to the system."""
    gc.collect()
    size, last = _status("VmRSS"), 0
    while size != last:
        time.sleep(0.2)  # arrays are freed by threads of their own
        ctypes.CDLL(None).malloc_trim(0)
        size, last = _status("VmRSS"), size
    return size


def _status(name: str) -> int:
    """Bytes of this process, by a name of /proc/self/status."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


class _Figures:
    """What `_measure` prints of cases, each in a process of its own, or found in a file.

    Args:
      path: of the file.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._known = json.loads(path.read_text()) if path.exists() else {}

    def of(self, path: str, fields: dict[str, Any], calls: int = 4) -> dict[str, float]:
        """The figures of a case; without calls its step is compiled, and no more."""
        case = json.dumps([path, fields, calls])
        if case not in self._known:
            command = [sys.executable, "-m", "experiments.memory_needs", f"--case={case}"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=_ROOT)
            self._known[case] = json.loads(done.stdout.splitlines()[-1])
            self._path.write_text(json.dumps(self._known, indent=1))
        return self._known[case]


def _job() -> None:
    if _CASE.value:
        _measure(*json.loads(_CASE.value))
        return
    folder = pathlib.Path(_WORKDIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    figures = _Figures(folder / "figures.json")
    made: dict[str, list[list[str]]] = {"foretold": [], "named": [], "saving": []}
    makers = {"foretold": _foretold, "named": _named, "saving": _saving}
    for table in _TABLES.value:
        for row in makers[table](figures):
            made[table].append(row)
            (folder / "memory_needs.md").write_text(_page(made))
            print(" | ".join(row), flush=True)


def _foretold(figures: _Figures) -> Iterator[list[str]]:
    for name, case in _CONFIGS.items():
        found = figures.of(*case)
        yield [name, *_sizes(found, "libraries", "foretold", "counted"), _ratio(found)]


def _saving(figures: _Figures) -> Iterator[list[str]]:
    for name, (path, given) in _SAVED.items():
        base: dict[str, float] = {}
        for fields, value in _SAVING.items():
            found = figures.of(path, {**given, **value})
            base = base or found
            times = [f"{found[key] / base[key]:.2f}" for key in ("counted", "seconds")]
            yield [name, fields, *_sizes(found, "foretold", "counted"), _ratio(found), *times]


def _named(figures: _Figures) -> Iterator[list[str]]:
    for field, (path, fields, before) in _NAMED.items():
        needed = [figures.of(path, given, calls=0)["foretold"] for given in (before, fields)]
        changed = [key for key in {**before, **fields} if before.get(key) != fields.get(key)]
        sides = [_said(given, changed) for given in (before, fields)]
        yield [field, *sides, *(f"{size / 1e6:.0f}" for size in needed)]


def _said(given: dict[str, Any], changed: list[str]) -> str:
    return ", ".join(f"{key}={given[key]}" for key in changed if key in given) or "default"


def _sizes(found: dict[str, float], *names: str) -> list[str]:
    return [f"{found[name] / 1e6:.0f}" for name in names]


def _ratio(found: dict[str, float]) -> str:
    return f"{found['foretold'] / found['counted']:.2f}"


def _page(made: dict[str, list[list[str]]]) -> str:
    cores = len(os.sched_getaffinity(0))
    parts = [
        "# What a step takes of memory",
        f"`{machine.command('experiments.memory_needs')}`, {datetime.date.today()},"
        f" {machine.processor()}, {cores} cores, {machine.versions('jax', 'jaxlib')}; float32"
        " where nothing else is said. Foretold is what a run says before its first step; counted,"
        " how far the process grew in four steps, with what they are given. What libraries take is"
        " in what is foretold. Teachers of CIFAR-100 are remembered, those of ImageNet run.",
        tables.markdown(
            ["step", "libraries, MB", "foretold, MB", "counted, MB", "foretold / counted"],
            made["foretold"],
        ),
    ]
    if made["saving"]:
        sizes = ["foretold, MB", "counted, MB", "foretold / counted"]
        header = ["step", "field", *sizes, "counted, times", "processor time, times"]
        parts += [
            "Times are of the first row of each step.",
            tables.markdown(header, made["saving"]),
        ]
    if made["named"]:
        header = ["named where a step does not fit", "from", "to", "foretold, MB", "then, MB"]
        parts.append(tables.markdown(header, made["named"]))
    return "\n\n".join(parts) + "\n"


def main(argv: list[str]) -> None:
    """Keeps tables."""
    del argv
    cli.guard(_job)


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
