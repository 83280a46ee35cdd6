"""Times a distillation step beside PyTorch's: one table, of one run on one machine.

    python experiments/benchmark.py --torch_python=PYTHON

PYTHON is an interpreter with torch and torchvision; without one, PyTorch is left out. A reader is a
process that times one implementation of the step. All readers of a size of images start one after
the other, compile, and then take turns, round by round. On a GPU, for which rrd_jax is installed
with its extra cuda13 or cuda12, networks and sets are those of the published pairs; a CPU gets
small ones, and only ratios are shown. The table goes to <workdir>/speed.md, and every figure, as
soon as there is one, to <workdir>/speed.json.
"""

import collections
import contextlib
import datetime
import os
import pathlib
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for a start by path, without -m

from experiments import speed_table
from experiments.speed_reader import Reader, ReaderError
from experiments.speed_table import CACHED, LOSS, OURS
from rrd_jax import cli, errors, report

_TORCH = flags.DEFINE_string("torch_python", "", "An interpreter with torch and torchvision.")
_TORCH_MODE = flags.DEFINE_string("torch_mode", "default", "A mode of torch.compile.")
_SIZES = flags.DEFINE_list("sizes", ["cifar", "imagenet"], "Which sizes of images.")
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", [], "Images a step; none for what suits the size.")
_STEPS = flags.DEFINE_integer(
    "steps", 0, "The fewest steps a round, in whole epochs; 0 for 100, on a CPU 10.", lower_bound=0
)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Rounds over all.", lower_bound=1)
_CORES = flags.DEFINE_integer(
    "cores", 0, "On a CPU, cores that all share; 0 for all.", lower_bound=0
)
_WORKDIR = flags.DEFINE_string("workdir", "runs/speed-benchmark", "Results, and what readers say.")

# `crops`: whether the reader only makes sense where the step crops the images.
_PEERS = {
    "torch, published loop": {"variant": "published", "remembered": False, "crops": True},
    "torch, eager": {"variant": "eager", "remembered": False, "crops": False},
    "torch, strongest": {"variant": "strongest", "remembered": False, "crops": False},
    "torch, strongest, with a table": {"variant": "strongest", "remembered": True, "crops": True},
}


class Size(NamedTuple):
    """Images, and the networks for them.

    Attributes:
      config: the file with the recipe.
      teacher: a network's name.
      student: a network's name.
      side: height and width of the images.
      classes: C.
      examples: N; 0 for `epoch` batches.
      epoch: steps of an epoch, where `examples` is 0.
      batch_sizes: the default of --batch_sizes.
      queue_size: K.
      crops: whether the step crops and flips; otherwise the host has done it.
    """

    config: str
    teacher: str
    student: str
    side: int
    classes: int
    examples: int
    epoch: int
    batch_sizes: tuple[int, ...]
    queue_size: int
    crops: bool


_CIFAR, _IMAGENET = "configs/cifar100.py", "configs/imagenet_r34_r18.py"
_FULL = {
    "cifar": Size(
        _CIFAR, "resnet32x4", "resnet8x4", 32, 100, 50_000, 0, (64, 512), 16384, crops=True
    ),
    "imagenet": Size(
        _IMAGENET, "resnet34", "resnet18", 224, 1000, 0, 20, (256,), 16384, crops=False
    ),
}
_SMALL = {
    "cifar": Size(_CIFAR, "resnet8x4", "resnet8", 32, 100, 0, 2, (32,), 1024, crops=True),
    "imagenet": Size(_IMAGENET, "resnet34", "resnet18", 96, 1000, 0, 2, (8,), 1024, crops=False),
}


class Group:
    """All readers of one size of images and one batch size.

    Attributes:
      figures: all that is known, as JSON: the `size`, the `task`, what each reader says of itself
        in `ready`, why it `failed`, and by reader and case the `seconds` a step of each round.
    """

    def __init__(self, name: str, size: Size, batch_size: int, steps: int):
        examples = size.examples or size.epoch * batch_size
        live = ["ce", "ce+kd", LOSS]
        cached = [f"{method}{CACHED}" for method in live[1:]] if size.crops else []
        self._label = f"{name}, {batch_size}"
        self._task = {
            **size._asdict(),
            "examples": examples,
            "batch_size": batch_size,
            "epochs": -(-steps // (examples // batch_size)),
            "cases": live + cached,
            "mode": _TORCH_MODE.value,
        }
        self.figures = {
            "size": name,
            "task": self._task,
            "ready": {},
            "failed": {},
            "seconds": collections.defaultdict(list),
        }

    def measure(self, workdir: pathlib.Path, cores: int, keep: Callable[[], None]) -> None:
        """Starts all readers and lets them take turns.

        Args:
          workdir: receives what the readers write to stderr.
          cores: that all readers share; 0 for all.
          keep: called after each figure.

        Raises:
          InputError: our reader fails; a peer may fail.
        """
        with contextlib.ExitStack() as stack:
            turns = []
            for name, (python, script, options, cases) in self._readers().items():
                print(f"[{self._label}] {name} compiles", flush=True)
                log = workdir / (re.sub(r"\W+", "-", f"{self._label} {name}") + ".log")
                try:
                    reader = Reader(python, script, self._task | options, log, cores)
                except ReaderError as error:
                    self._failed(name, error)
                else:
                    stack.callback(reader.close)
                    self.figures["ready"][name] = reader.ready
                    turns += [(name, case, reader) for case in cases]
                keep()
            for i in range(_REPEATS.value):
                for name, case, reader in turns:
                    if name not in self.figures["failed"]:
                        self._take_turn(i, name, case, reader)
                        keep()

    def _take_turn(self, i: int, name: str, case: str, reader: Reader) -> None:
        """Round i of a reader's case."""
        try:
            seconds = reader.round(case)
        except ReaderError as error:
            self._failed(name, error)
            self.figures["seconds"].pop(f"{name}: {case}", None)
            return
        self.figures["seconds"][f"{name}: {case}"].append(seconds)
        step = f"{1000 * seconds:.4g} ms a step, load {os.getloadavg()[0]:.1f}"
        print(f"[{self._label}, round {i + 1}] {name}, {case}: {step}", flush=True)

    def _readers(self) -> dict[str, tuple[str, str, dict[str, Any], list[str]]]:
        """By name: interpreter, script, what it is told beside the task, and cases."""
        readers = {OURS: (sys.executable, "ours.py", {}, self._task["cases"])}
        for name, options in _PEERS.items() if _TORCH.value else ():
            if options["crops"] <= self._task["crops"]:
                case = f"{LOSS}{CACHED}" if options["remembered"] else LOSS
                told = {"variant": options["variant"], "remembered": options["remembered"]}
                readers[name] = (_TORCH.value, "torch_peer.py", told, [case])
        return readers

    def _failed(self, name: str, error: ReaderError) -> None:
        if name == OURS:
            raise errors.InputError(f"{name} failed: {error}") from error
        self.figures["failed"][name] = str(error)
        print(f"[{self._label}] {name} failed: {error}", flush=True)


def _groups(on_cpu: bool) -> list[Group]:
    sizes, groups = _SMALL if on_cpu else _FULL, []
    for name in _SIZES.value:
        size = errors.lookup("size", name, sizes)
        for batch_size in map(str, _BATCH_SIZES.value or size.batch_sizes):
            if not batch_size.isdecimal() or not int(batch_size):
                raise errors.InputError(f"--batch_sizes has '{batch_size}', but must be above 0")
            if size.examples and int(batch_size) > size.examples:
                raise errors.InputError(
                    f"--batch_sizes has {batch_size}, but the set has {size.examples:,} images"
                )
            steps = _STEPS.value or (10 if on_cpu else 100)
            groups.append(Group(name, size, int(batch_size), steps))
    return groups


def _platform() -> str:
    """What both libraries compute on, such as cpu.

    Asked of other processes: this one must leave the device to the readers.

    Raises:
      InputError: an interpreter cannot be used, or the two compute on different devices.
    """
    ours = _run_line(sys.executable, "import jax; print(jax.default_backend())")
    if _TORCH.value:
        program = "import torch, torchvision; print('gpu' if torch.cuda.is_available() else 'cpu')"
        theirs = _run_line(_TORCH.value, program)
        if theirs != ours:
            raise errors.InputError(
                f"torch of {_TORCH.value} computes on a {theirs}, jax on a {ours}: install both for"
                " the same device, or hide a GPU from both by CUDA_VISIBLE_DEVICES="
            )
    return ours


def _run_line(python: str, program: str) -> str:
    """What an interpreter prints for a line of Python."""
    done = subprocess.run([python, "-c", program], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").split("\n")[-1]
        raise errors.InputError(f"{python} cannot be used: {reason}")
    return done.stdout.strip()


def _text(figures: list[dict[str, Any]], load: float, *, absolute: bool) -> str:
    """The table, what it says, and where it comes from; load is that before the first reader."""
    readers = [ready for group in figures for ready in group["ready"].values()]
    versions = dict(pair for ready in readers for pair in ready["versions"].items())
    lines = [speed_table.summary(figures, absolute=absolute), ""]
    for group in figures:
        lines += speed_table.remarks(group, absolute=absolute)
    lines += [
        "",
        f"{datetime.date.today()}, {readers[0]['device']}, {os.cpu_count()} cores,"
        f" {platform.machine()}; Python {platform.python_version()},"
        f" {', '.join(f'{name} {version}' for name, version in versions.items())}.",
        f"{_REPEATS.value} rounds in turns, medians; load {load:.1f} before,"
        f" {os.getloadavg()[0]:.1f} after, ours included. 'Ours / it': how many times as fast"
        f" {LOSS} of {OURS} is, with the teacher running and remembered. 'Ready after': of"
        " compilation and a first epoch.",
    ]
    if not _TORCH.value:
        lines.append(f"Left out, no interpreter given: {'; '.join(_PEERS)}.")
    return "\n".join(lines)


def _job() -> None:
    workdir = pathlib.Path(_WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    on_cpu = _platform() == "cpu"
    groups = _groups(on_cpu)
    figures = [group.figures for group in groups]
    load = os.getloadavg()[0]
    for group in groups:
        cores = _CORES.value if on_cpu else 0
        group.measure(workdir, cores, lambda: report.write_json(workdir / "speed.json", figures))
    text = _text(figures, load, absolute=not on_cpu)
    report.write_whole(workdir / "speed.md", text + "\n")
    print(f"\n{text}\n\nkept in {workdir / 'speed.md'} and {workdir / 'speed.json'}")


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_job, stopped="stopped; what was measured is in speed.json of the workdir")


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
