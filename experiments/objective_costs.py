"""Measures each objective's share of a step: X+kd beside ce+kd, for every objective X.

    python -m experiments.objective_costs --cores=1

Each method's step is compiled in a process of its own, fed as in a run, and takes turns with that
of ce+kd; a share is the median of the ratios of each turn. An objective that does not fit the pair
of networks is a row that says why. The table goes to <workdir>/objective_costs.md, every figure to
<workdir>/objective_costs.json, which a later run takes as --before. A GPU gets the published pair.
"""

import contextlib
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
from typing import Any

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for a start by path, without -m

from experiments.objective_costs_table import BASE, COMPANY, Cost, share, table
from experiments.speed_reader import Reader, ReaderError, first_cores
from rrd_jax import errors, objectives
from rrd_jax.run_folder import atomic_write
from rrd_jax.terminal import cli

_METHODS = flags.DEFINE_list("methods", [], "Objectives; none for all of ours.")
_TEACHER = flags.DEFINE_string("teacher", "", "A network; none for what suits the device.")
_STUDENT = flags.DEFINE_string("student", "", "A network; none for what suits the device.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 0, "Images a step; 0 for what suits the device.", lower_bound=0
)
_QUEUE_SIZE = flags.DEFINE_integer("queue_size", 16384, "K of memories.", lower_bound=1)
_SIDE = flags.DEFINE_integer("side", 32, "Height and width of the images.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 6, "Steps a turn.", lower_bound=1)
_TURNS = flags.DEFINE_integer("turns", 5, "Turns of each method.", lower_bound=1)
_CORES = flags.DEFINE_integer("cores", 0, "On a CPU, cores to use; 0 for all.", lower_bound=0)
_BEFORE = flags.DEFINE_string("before", "", "An earlier objective_costs.json to show beside it.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/objective-costs", "Results, and what readers say.")

_SMALL, _PUBLISHED = ("resnet8x4", "resnet8", 32), ("resnet32x4", "resnet8x4", 64)


def _task(on_cpu: bool) -> dict[str, Any]:
    """What the readers do, but for their case: two steps an epoch, of random images."""
    teacher, student, batch_size = _SMALL if on_cpu else _PUBLISHED
    batch_size = _BATCH_SIZE.value or batch_size
    return {
        "config": "configs/cifar100.py",
        "teacher": _TEACHER.value or teacher,
        "student": _STUDENT.value or student,
        "side": _SIDE.value,
        "classes": 100,
        "examples": 2 * batch_size,
        "batch_size": batch_size,
        "queue_size": _QUEUE_SIZE.value,
        "halves": [],
        "epochs": -(-_STEPS.value // 2),
    }


def _measure(task: dict[str, Any], name: str, base: Reader, workdir: pathlib.Path) -> Cost:
    """Compiles a method and lets it take turns with `base`; a failure is its result."""
    method = f"{name}+{COMPANY}"
    shares = []
    with contextlib.ExitStack() as stack:
        try:
            reader = _reader(task, method, workdir)
            stack.callback(reader.close)
            for _ in range(_TURNS.value):
                seconds = _round(base)
                shares.append(reader.round(method) / seconds)
        except ReaderError as error:
            return Cost([], 0, re.sub(r"^[\w.]*Error: ", "", str(error)))
    return Cost(shares, reader.ready["start"][method])


def _round(base: Reader) -> float:
    try:
        return base.round(BASE)
    except ReaderError as error:
        raise errors.InputError(f"{BASE} failed: {error}") from error


def _reader(task: dict[str, Any], method: str, workdir: pathlib.Path) -> Reader:
    log, cores = workdir / f"{method}.log", first_cores(_CORES.value)
    return Reader(sys.executable, "ours.py", {**task, "cases": [method]}, log, cores)


def _text(costs: dict[str, Cost], before: dict[str, Cost] | None, task: dict, ready: dict) -> str:
    """The table, and where it comes from."""
    versions = ", ".join(f"{name} {version}" for name, version in ready["versions"].items())
    return "\n".join(
        [
            table(costs, before),
            "",
            f"{datetime.date.today()}, {ready['device']}, {_CORES.value or os.cpu_count()} cores,"
            f" {platform.machine()}; Python {platform.python_version()}, {versions}.",
            f"{task['teacher']} to {task['student']}, batch {task['batch_size']},"
            f" {task['side']} px, K = {task['queue_size']:,}; share: of the time of a step of"
            f" {BASE}, median of {_TURNS.value} turns of {2 * task['epochs']} steps. The loss of a"
            " stage before distillation is not in it.",
        ]
    )


def _before() -> dict[str, Cost] | None:
    if not _BEFORE.value:
        return None
    try:
        costs = json.loads(pathlib.Path(_BEFORE.value).read_text())["costs"]
        return {name: Cost(**cost) for name, cost in costs.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.InputError(
            f"--before is {_BEFORE.value}, but must be an objective_costs.json: {error}"
        ) from error


def _platform() -> str:
    """Such as cpu. Another process is asked: this one must leave the device to the readers."""
    program = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if done.returncode:
        raise errors.InputError(f"no device can be used: {done.stderr.strip().split(chr(10))[-1]}")
    return done.stdout.strip()


def _job() -> None:
    names = _METHODS.value or [name for name in objectives.RECORDS if name not in BASE.split("+")]
    for name in names:
        objectives.record(name)  # raises an InputError for one that is unknown
    before, workdir = _before(), pathlib.Path(_WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    task, costs = _task(_platform() == "cpu"), {}
    print(f"{BASE} compiles", flush=True)
    try:
        base = _reader(task, BASE, workdir)
    except ReaderError as error:
        raise errors.InputError(f"{BASE} failed: {error}") from error
    try:
        for name in names:
            costs[name] = cost = _measure(task, name, base, workdir)
            result = cost.failed or f"{share(cost):.2f} of a step of {BASE}"
            print(f"{name}+{COMPANY}: {result}", flush=True)
            kept = {name: cost._asdict() for name, cost in costs.items()}
            atomic_write.write_json(workdir / "objective_costs.json", {"task": task, "costs": kept})
    finally:
        base.close()
    text = _text(costs, before, task, base.ready)
    atomic_write.write_text(workdir / "objective_costs.md", text + "\n")
    print(f"\n{text}\n\nkept in {workdir}")


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_job, stopped="stopped; what was measured is in objective_costs.json of the workdir")


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
