"""Measures each objective's share of a step: X+kd compared with ce+kd, for every objective X.

    python -m experiments.objective_costs --cores=1

Each method's step is compiled in a separate process, fed as in a run, and timed in turns with that
of ce+kd; a share is the median of the ratios of all turns. An objective that does not fit the pair
of networks is reported with the reason. The table goes to <workdir>/objective_costs.md, all values
to <workdir>/objective_costs.json. On a GPU the pair is the published one.
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
from rrd_jax.terminal import cli, tables

_METHODS = flags.DEFINE_list("methods", [], "Objectives; none for all.")
_TEACHER = flags.DEFINE_string("teacher", "", "A network; none for the device's default.")
_STUDENT = flags.DEFINE_string("student", "", "A network; none for the device's default.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 0, "Images of a step; 0 for the device's default.", lower_bound=0
)
_QUEUE_SIZE = flags.DEFINE_integer("queue_size", 16384, "Rows of memories, K.", lower_bound=1)
_SIDE = flags.DEFINE_integer("side", 32, "Height and width of the images.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 6, "Steps of a turn.", lower_bound=1)
_TURNS = flags.DEFINE_integer("turns", 5, "Turns of each method.", lower_bound=1)
_CORES = flags.DEFINE_integer("cores", 0, "Cores on a CPU; 0 for all.", lower_bound=0)
_WORKDIR = flags.DEFINE_string("workdir", "runs/objective-costs", "Results, and logs.")

_SMALL, _PUBLISHED = ("resnet8x4", "resnet8", 32), ("resnet32x4", "resnet8x4", 64)
_BASE = "ce+kd"


class Cost(NamedTuple):
    """The cost of a method's step.

    Attributes:
      shares: time relative to that of ce+kd, of each turn.
      ready: seconds of compilation and the first two steps.
      error: why there are no shares; otherwise "".
    """

    shares: list[float]
    ready: float
    error: str = ""

    @property
    def share(self) -> float:
        """The median of the turns."""
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
    header = ["X in X+kd", "share", "lowest and highest", "ready after"]
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


def _measure(task: dict[str, Any], name: str, base: Reader, workdir: pathlib.Path) -> Cost:
    """Compiles a method, and times it in turns with `base`; a failure is part of the result."""
    method, shares = f"{name}+kd", []
    with contextlib.ExitStack() as stack:
        try:
            reader = _reader(task, method, workdir)
            stack.callback(reader.close)
            for _ in range(_TURNS.value):
                try:
                    seconds = base.round(_BASE)
                except ReaderError as error:
                    raise errors.InputError(f"{_BASE} failed: {error}") from error
                shares.append(reader.round(method) / seconds)
        except ReaderError as error:
            return Cost([], 0, re.sub(r"^[\w.]*Error: ", "", str(error)))
    return Cost(shares, reader.ready["start"][method])


def _reader(task: dict[str, Any], method: str, workdir: pathlib.Path) -> Reader:
    log, cores = workdir / f"{method}.log", first_cores(_CORES.value)
    return Reader(sys.executable, "ours.py", {**task, "cases": [method]}, log, cores)


def _job() -> None:
    names = _METHODS.value or [name for name in objectives.RECORDS if name not in _BASE.split("+")]
    for name in names:
        objectives.record(name)  # Raises an InputError for an unknown one.
    workdir = pathlib.Path(_WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    platform = machine.run_line(sys.executable, "import jax; print(jax.default_backend())")
    task, costs = _task(platform == "cpu"), {}
    print(f"{_BASE} compiles", flush=True)
    try:
        base = _reader(task, _BASE, workdir)
    except ReaderError as error:
        raise errors.InputError(f"{_BASE} failed: {error}") from error
    try:
        for name in names:
            costs[name] = cost = _measure(task, name, base, workdir)
            print(
                f"{name}+kd: {cost.error or f'{cost.share:.2f} of a step of {_BASE}'}", flush=True
            )
            results = {name: cost._asdict() for name, cost in costs.items()}
            atomic_write.write_json(
                workdir / "objective_costs.json", {"task": task, "costs": results}
            )
    finally:
        base.close()
    processor, cores = machine.processor(base.ready["device"]), _CORES.value or os.cpu_count()
    text = (
        f"{table(costs)}\n\n{processor}, {cores} cores; {machine.versions('jax', 'jaxlib')}."
        f" {task['teacher']} to {task['student']}, batch {task['batch_size']}, {task['side']} px,"
        f" K = {task['queue_size']:,}; medians of {_TURNS.value} turns, {2 * task['epochs']} steps."
    )
    atomic_write.write_text(workdir / "objective_costs.md", text + "\n")
    print(f"\n{text}\n\nkept in {workdir}")


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(
        _job, stopped="stopped; the results so far are in objective_costs.json of the workdir"
    )


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
