"""How fast a distillation step is beside PyTorch's: one table, of one run on one machine.

    python experiments/benchmark.py --torch_python=PYTHON

PYTHON is an interpreter with torch and torchvision; without one, PyTorch is left out. All readers
of a set of images are started one after the other, compile, and then take turns, round by round. On
a GPU, for which rrd_jax is installed with its extra cuda13 or cuda12, the networks and sets are
those of the published pairs; a CPU gets small ones, and only ratios are shown. The table goes to
<workdir>/speed.md, and every figure, as soon as there is one, to <workdir>/speed.json.
"""

import collections
import contextlib
import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import app, flags

from rrd_jax import cli, errors, parallel, report

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

_HERE = pathlib.Path(__file__).parent / "speed_peers"
_OURS, _LOSS, _RECALLS = "rrd_jax", "rrd+kd", ", remembered"
_EPOCHS = 240
# `crops`: whether only where the step crops the images.
_PEERS = {
    "torch, published loop": {"variant": "published", "remembered": False, "crops": True},
    "torch, eager": {"variant": "eager", "remembered": False, "crops": False},
    "torch, strongest": {"variant": "strongest", "remembered": False, "crops": False},
    "torch, strongest, with a table": {"variant": "strongest", "remembered": True, "crops": True},
}


class Size(NamedTuple):
    """Images, and the networks for them.

    Attributes:
      config: a module of configs with the recipe.
      teacher: a network's name.
      student: likewise.
      side: height and width.
      classes: C.
      examples: in the set; 0 for `epoch` batches.
      epoch: steps.
      batch_sizes: where none are asked for.
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


_CIFAR, _IMAGENET = "configs.cifar100", "configs.imagenet_r34_r18"
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


class ReaderError(RuntimeError):
    """A reader has ended early; the message is the line that says why."""


class Reader:
    """A process that gets ready, and then makes a round whenever it is asked.

    Attributes:
      ready: what it says of itself.
    """

    def __init__(
        self, python: str, script: str, task: dict[str, Any], log: pathlib.Path, cores: int
    ):
        pinned = sorted(os.sched_getaffinity(0))[: cores or None]
        self._log = log
        with log.open("w") as errors_to:
            self._process = subprocess.Popen(
                [python, str(_HERE / script), json.dumps(task)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors_to,
                text=True,
                # Several share a device: none may take its memory beforehand.
                env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
                preexec_fn=lambda: os.sched_setaffinity(0, pinned),
            )
        try:
            self.ready = self._answer()
        except BaseException:
            self.close()
            raise

    def round(self, case: str) -> float:
        """Seconds a step."""
        with contextlib.suppress(BrokenPipeError):  # it has ended: then there is no answer
            self._process.stdin.write(f"{case}\n")
            self._process.stdin.flush()
        return self._answer()["seconds"]

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        while line := self._process.stdout.readline():
            if line.startswith("{"):  # what libraries print is passed over
                return json.loads(line)
        code = self._process.wait()
        said = [line.strip() for line in self._log.read_text().split("\n") if line.strip()]
        named = [line for line in said if re.match(r"[\w.]*(Error|Exception)\b", line)]
        raise ReaderError((named or said or [f"exit code {code}"])[-1])


class Group:
    """All readers of one size of images and batch.

    Attributes:
      found: what is known of them: `size`, `task`, what each says of itself in `ready`, why it
        `failed`, and by reader and case the `seconds` a step of each round.
    """

    def __init__(self, name: str, size: Size, batch_size: int, steps: int):
        examples = size.examples or size.epoch * batch_size
        methods = ["ce", "ce+kd", _LOSS]
        recalled = [f"{method}{_RECALLS}" for method in methods[1:]] if size.crops else []
        self._label = f"{name}, {batch_size}"
        self._task = {
            **size._asdict(),
            "examples": examples,
            "batch_size": batch_size,
            "epochs": -(-steps // (examples // batch_size)),
            "cases": methods + recalled,
            "mode": _TORCH_MODE.value,
        }
        self.found = {
            "size": name,
            "task": self._task,
            "ready": {},
            "failed": {},
            "seconds": collections.defaultdict(list),
        }

    def measure(self, workdir: pathlib.Path, cores: int, keep: Callable[[], None]) -> None:
        """Starts all readers and lets them take turns; `keep` is called after each figure.

        Raises:
          InputError: ours fails; others may.
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
                    self.found["ready"][name] = reader.ready
                    turns += [(name, case, reader) for case in cases]
                keep()
            for i in range(_REPEATS.value):
                for name, case, reader in turns:
                    if name in self.found["failed"]:
                        continue
                    try:
                        seconds = reader.round(case)
                    except ReaderError as error:
                        self._failed(name, error)
                        self.found["seconds"].pop(f"{name}: {case}", None)
                        continue
                    self.found["seconds"][f"{name}: {case}"].append(seconds)
                    keep()
                    step = f"{1000 * seconds:.4g} ms a step, load {os.getloadavg()[0]:.1f}"
                    print(f"[{self._label}, round {i + 1}] {name}, {case}: {step}", flush=True)

    def _readers(self) -> dict[str, tuple[str, str, dict[str, Any], list[str]]]:
        """Interpreter, script, what its task has beside the group's, and cases."""
        readers = {_OURS: (sys.executable, "ours.py", {}, self._task["cases"])}
        for name, options in _PEERS.items() if _TORCH.value else ():
            if options["crops"] <= self._task["crops"]:
                case = f"{_LOSS}{_RECALLS}" if options["remembered"] else _LOSS
                own = {"variant": options["variant"], "remembered": options["remembered"]}
                readers[name] = (_TORCH.value, "torch_peer.py", own, [case])
        return readers

    def _failed(self, name: str, error: ReaderError) -> None:
        if name == _OURS:
            raise errors.InputError(f"{name} failed: {error}") from error
        self.found["failed"][name] = str(error)
        print(f"[{self._label}] {name} failed: {error}", flush=True)


def summary(groups: list[dict[str, Any]], *, absolute: bool) -> str:
    """Medians over the rounds; ratios are medians over rounds, each of neighbours in time."""
    header = ["images", "batch", "reader", "loss", "teacher"]
    if absolute:
        header += ["images/s", "ms a step", "of bf16 peak"]
    header += ["ours / it", "ours, remembered / it", "ready after"]
    rows = []
    for group in groups:
        task, ready = group["task"], group["ready"]
        images = f"{group['size']}, {task['side']} px"
        for key, runs in group["seconds"].items():
            name, _, case = key.partition(": ")
            method, _, recalls = case.partition(", ")
            teacher = "-" if method == "ce" else "remembered" if recalls else "runs"
            row = [images, task["batch_size"], name, method, teacher]
            if absolute:
                seconds, peak = statistics.median(runs), parallel.peak_flops(ready[_OURS]["device"])
                share = ready[_OURS]["flops"][case] / seconds / peak if peak else 0
                row += [f"{task['batch_size'] / seconds:,.0f}", f"{1000 * seconds:.3f}"]
                row.append(f"{100 * share:.1f} %" if peak else "-")
            for own in (f"{_OURS}: {_LOSS}", f"{_OURS}: {_LOSS}{_RECALLS}"):
                row.append(f"{_ratio(runs, group, own):.2f}" if own in group["seconds"] else "-")
            start = ready[name]["start"]
            row.append(f"{start[case] if name == _OURS else start:.0f} s")
            rows.append(row)
        for name in group["failed"]:
            row = [images, task["batch_size"], name, _LOSS, "failed"]
            rows.append(row + ["-"] * (len(header) - len(row)))
    return report.table(header, rows)


def _ratio(runs: list[float], group: dict[str, Any], own: str) -> float:
    return statistics.median(a / b for a, b in zip(runs, group["seconds"][own], strict=False))


def remarks(group: dict[str, Any], *, absolute: bool) -> list[str]:
    """RRD's own cost, what remembering the teacher costs and saves, and a word on the peers."""
    task, seconds = group["task"], group["seconds"]
    label = f"{group['size']}, batch {task['batch_size']}"

    def own(case):
        return f"{_OURS}: {case}"

    def added(recalls):
        runs = seconds[own(f"{_LOSS}{recalls}")]
        return f"{100 * (_ratio(runs, group, own(f'ce+kd{recalls}')) - 1):+.1f} %"

    lines = [f"{label}: RRD changes the time of a step of ce+kd by {added('')}"]
    if own(f"{_LOSS}{_RECALLS}") in seconds:
        lines[0] += f", by {added(_RECALLS)} with the teacher remembered"
        steps = _EPOCHS * (task["examples"] // task["batch_size"])
        fill = group["ready"][_OURS]["fill"]
        runs = statistics.median(seconds[own(_LOSS)]) * steps
        recalls = fill + statistics.median(seconds[own(f"{_LOSS}{_RECALLS}")]) * steps
        line = f"{label}: a run of {_EPOCHS} epochs takes {recalls / runs:.2f} of the time if the"
        line += " teacher is remembered, its look at all views included"
        if absolute:
            line += f": {recalls:.0f} s, {fill:.0f} s of them once, in place of {runs:.0f} s"
        lines.append(f"{line}.")
    lines[0] += "."
    if not task["crops"]:
        lines.append(
            f"{label}: steps get images that are cut already; no published loop, no table."
        )
    for name, reason in group["failed"].items():
        lines.append(f"{label}: {name} failed: {reason}")
    for name, ready in group["ready"].items():
        if ready.get("launched", "one by one") != "one by one":
            lines.append(f"{label}: {name} launches {ready['launched']}.")
    return lines


def _probe(python: str, program: str) -> str:
    """What a line of Python prints there.

    Raises:
      InputError: it fails.
    """
    done = subprocess.run([python, "-c", program], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").split("\n")[-1]
        raise errors.InputError(f"{python} cannot be used: {reason}")
    return done.stdout.strip()


def _groups(on_cpu: bool) -> list[Group]:
    known, groups = _SMALL if on_cpu else _FULL, []
    for name in _SIZES.value:
        size = errors.lookup("size", name, known)
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


def _job() -> None:
    workdir = pathlib.Path(_WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    # Asked of another process: this one must leave the device to the readers.
    ours = _probe(sys.executable, "import jax; print(jax.default_backend())")
    if _TORCH.value:
        program = "import torch, torchvision; print('gpu' if torch.cuda.is_available() else 'cpu')"
        theirs = _probe(_TORCH.value, program)
        if theirs != ours:
            raise errors.InputError(
                f"torch of {_TORCH.value} computes on a {theirs}, jax on a {ours}: install both for"
                " the same device, or hide a GPU from both by CUDA_VISIBLE_DEVICES="
            )
    on_cpu = ours == "cpu"
    groups = _groups(on_cpu)
    found = [group.found for group in groups]
    load = os.getloadavg()[0]

    def keep():
        report.write_json(workdir / "speed.json", found)

    for group in groups:
        group.measure(workdir, _CORES.value if on_cpu else 0, keep)

    readers = [ready for each in found for ready in each["ready"].values()]
    versions = dict(pair for ready in readers for pair in ready["versions"].items())
    lines = [summary(found, absolute=not on_cpu), ""]
    lines += [line for each in found for line in remarks(each, absolute=not on_cpu)]
    lines += [
        "",
        f"{datetime.date.today()}, {readers[0]['device']}, {os.cpu_count()} cores,"
        f" {platform.machine()}; Python {platform.python_version()},"
        f" {', '.join(f'{name} {version}' for name, version in versions.items())}.",
        f"{_REPEATS.value} rounds in turns, medians; load {load:.1f} before,"
        f" {os.getloadavg()[0]:.1f} after, ours included. 'Ours / it': how many times as fast"
        f" {_LOSS} of {_OURS} is, with the teacher running and remembered. 'Ready after': of"
        " compilation and a first epoch.",
    ]
    if not _TORCH.value:
        lines.append(f"Left out, no interpreter given: {'; '.join(_PEERS)}.")
    text = "\n".join(lines)
    report.write_whole(workdir / "speed.md", text + "\n")
    print(f"\n{text}\n\nkept in {workdir / 'speed.md'} and {workdir / 'speed.json'}")


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_job, stopped="stopped; what was measured is in speed.json of the workdir")


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
