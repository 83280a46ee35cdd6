"""Measures the time of a step with X+kd relative to ce+kd, for every objective X.

    python -m experiments.objective_costs --cores=1

The step of each method is compiled in a separate process, reads its batches as in a run, and is
timed in turns with a step of ce+kd. The relative time is the median of the ratios of all turns.
Objectives that do not fit the pair of networks are listed with the reason. The table is written to
<workdir>/objective_costs.md, all values to <workdir>/objective_costs.json. By default the pair is
resnet8x4 and resnet8 on a CPU, and the published resnet32x4 and resnet8x4 on a GPU.
"""

import contextlib
import os
import pathlib
import re
import statistics
import sys
from typing import Any, NamedTuple

from absl import app, flags

from experiments.benchmark import machine
from experiments.benchmark.reader import Reader, ReaderError, first_cores
from rrd_jax import errors, objectives
from rrd_jax.run_folder import atomic_write
from rrd_jax.terminal import cli, path_flags, tables

_METHODS = flags.DEFINE_list("methods", [], "Objectives to measure; empty for all.")
_TEACHER = flags.DEFINE_string(
    "teacher", "", "Teacher network; empty for the default of the device."
)
_STUDENT = flags.DEFINE_string(
    "student", "", "Student network; empty for the default of the device."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 0, "Images per step; 0 for the default of the device.", lower_bound=0
)
_QUEUE_SIZE = flags.DEFINE_integer("queue_size", 16384, "Rows of the memory, K.", lower_bound=1)
_SIDE = flags.DEFINE_integer("side", 32, "Height and width of the images.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 6, "Steps per turn.", lower_bound=1)
_TURNS = flags.DEFINE_integer("turns", 5, "Turns per method.", lower_bound=1)
_CORES = flags.DEFINE_integer("cores", 0, "Number of CPU cores; 0 for all.", lower_bound=0)
_WORKDIR = path_flags.define_path("workdir", "runs/objective-costs", "Folder of results and logs.")

_SMALL, _PUBLISHED = ("resnet8x4", "resnet8", 32), ("resnet32x4", "resnet8x4", 64)
_BASELINE = "ce+kd"


class Cost(NamedTuple):
    """The cost of a method's step.

    Attributes:
      shares: the time relative to ce+kd in each turn.
      ready: seconds of compilation and the first two steps.
      error: the reason why a method was not measured; otherwise "".
    """

    shares: list[float]
    ready: float
    error: str = ""

    @property
    def share(self) -> float:
        """The median of the relative times."""
        return statistics.median(self.shares)


def table(costs: dict[str, Cost]) -> str:
    """Returns a row for each objective, the most expensive first, and a line for each error."""
    measured = {name: cost for name, cost in costs.items() if not cost.error}
    rows = [
        [
            *(name, f"{cost.share:.2f}", f"{min(cost.shares):.2f} {max(cost.shares):.2f}"),
            f"{cost.ready:.0f} s",
        ]
        for name, cost in sorted(measured.items(), key=lambda pair: -pair[1].share)
    ]
    lines = [f"{name}: not measured, {cost.error}" for name, cost in costs.items() if cost.error]
    header = ["X in X+kd", "relative time", "min, max", "ready after"]
    return "\n\n".join([tables.markdown(header, rows), *lines])


def _task(on_cpu: bool) -> dict[str, Any]:
    """Returns the readers' task without its case: epochs of two steps on random images."""
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


def _measure(task: dict[str, Any], name: str, baseline: Reader, workdir: pathlib.Path) -> Cost:
    """Compiles a method and times it in turns with `baseline`; returns errors in the Cost."""
    method, shares = f"{name}+kd", []
    with contextlib.ExitStack() as stack:
        try:
            reader = _start_reader(task, method, workdir)
            stack.callback(reader.close)
            for _ in range(_TURNS.value):
                try:
                    seconds = baseline.round(_BASELINE)
                except ReaderError as error:
                    raise errors.InputError(f"{_BASELINE} failed: {error}") from error
                shares.append(reader.round(method) / seconds)
        except ReaderError as error:
            return Cost([], 0, re.sub(r"^[\w.]*Error: ", "", str(error)))
    return Cost(shares, reader.ready["start"][method])


def _start_reader(task: dict[str, Any], method: str, workdir: pathlib.Path) -> Reader:
    log, cores = workdir / f"{method}.log", first_cores(_CORES.value)
    return Reader(sys.executable, "ours.py", {**task, "cases": [method]}, log, cores)


def _job() -> None:
    names = _METHODS.value or [
        name for name in objectives.RECORDS if name not in _BASELINE.split("+")
    ]
    for name in names:
        # An unknown name raises an InputError.
        objectives.record(name)
    workdir = pathlib.Path(_WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    platform = machine.run_line(sys.executable, "import jax; print(jax.default_backend())")
    task, costs = _task(platform == "cpu"), {}
    print(f"compiling {_BASELINE}", flush=True)
    try:
        baseline = _start_reader(task, _BASELINE, workdir)
    except ReaderError as error:
        raise errors.InputError(f"{_BASELINE} failed: {error}") from error
    try:
        for name in names:
            costs[name] = cost = _measure(task, name, baseline, workdir)
            print(f"{name}+kd: {cost.error or f'relative time {cost.share:.2f}'}", flush=True)
            results = {name: cost._asdict() for name, cost in costs.items()}
            atomic_write.write_json(
                workdir / "objective_costs.json", {"task": task, "costs": results}
            )
    finally:
        baseline.close()
    processor, cores = machine.processor(baseline.ready["device"]), _CORES.value or os.cpu_count()
    text = (
        f"{table(costs)}\n\n{processor}, {cores} cores; {machine.versions('jax', 'jaxlib')}."
        f" {task['teacher']} to {task['student']}, batch {task['batch_size']}, {task['side']} px,"
        f" K = {task['queue_size']:,}; medians of {_TURNS.value} turns, {2 * task['epochs']} steps."
    )
    atomic_write.write_text(workdir / "objective_costs.md", text + "\n")
    print(f"\n{text}\n\nresults: {workdir}")


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(
        _job, stopped="stopped; finished objectives are in objective_costs.json of the workdir"
    )


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
