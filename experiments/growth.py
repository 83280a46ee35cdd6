"""How cost grows: with batch, memory, student, devices and epochs; tables, slopes and a picture.

    python -m experiments.growth --workdir=runs/growth
    python -m experiments.growth --curves=memory,large_batch_memory --cores=0

Each curve is measured by a process of its own, its points in turns. On one machine, and mostly of
small networks on a CPU: what counts is how a cost grows, not what it is. The picture needs
matplotlib, of the extra `studies`; it and the tables go to <workdir>/growth.md and growth.png,
every figure to growth.json.
"""

import datetime
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for a start by path, without -m

from experiments import growth_table, machine
from experiments.speed_reader import first_cores
from rrd_jax import errors
from rrd_jax.run_folder import report
from rrd_jax.terminal import cli

_CURVES = flags.DEFINE_list("curves", list(growth_table.KINDS), "Which curves.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Of each point, in turns.", lower_bound=1)
_CORES = flags.DEFINE_integer("cores", 1, "That a curve may use; 0 for all.", lower_bound=0)
_SMOKE = flags.DEFINE_bool("smoke", False, "Two small points of each, to see that it runs.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/growth", "Results.")


def _measure(name: str) -> dict[str, Any]:
    """The figures of a curve, by a process of its own.

    Raises:
      InputError: the process fails.
    """
    root = pathlib.Path(__file__).parents[1]
    command = [sys.executable, "-m", "experiments.growth_curves", name, str(_ROUNDS.value)]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    cores = first_cores(_CORES.value)
    done = subprocess.run(
        command + ["smoke"] * _SMOKE.value,
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").split("\n")[-1]
        raise errors.InputError(f"the curve '{name}' failed: {reason}")
    return json.loads(done.stdout.strip().split("\n")[-1])


def _text(curves: dict[str, Any], load: float) -> str:
    cores = f"{_CORES.value} of them used" if _CORES.value else "all used"
    lines = [
        growth_table.summary(curves),
        "",
        "An exponent of 1: twice as much costs twice as much; below, a fixed cost is shared."
        " Medians of rounds in turns.",
        "",
        *(f"- {line}" for line in growth_table.remarks(curves)),
        "",
        "![Cost over size; dotted: in proportion](growth.png)",
    ]
    for name, curve in curves.items():
        kind = growth_table.KINDS[name]
        lines += ["", f"## {kind.what}, over {kind.axis}", "", growth_table.details(name, curve)]
    lines += [
        "",
        f"{datetime.date.today()}, {machine.processor()}, {os.cpu_count()} cores, {cores};"
        f" {machine.versions('jax', 'jaxlib')}; load {load:.1f} before.",
        "",
        f"    {machine.command('experiments.growth')}",
    ]
    return "\n".join(lines)


def _job() -> None:
    for name in _CURVES.value:
        errors.lookup("curve", name, growth_table.KINDS)
    workdir, load = pathlib.Path(_WORKDIR.value), os.getloadavg()[0]
    workdir.mkdir(parents=True, exist_ok=True)
    curves: dict[str, Any] = {}
    for name in _CURVES.value:
        print(f"[{name}] is measured", flush=True)
        curves[name] = _measure(name)
        report.write_json(workdir / "growth.json", curves)
        text = _text(curves, load)
        report.write_whole(workdir / "growth.md", text + "\n")
        growth_table.picture(curves).savefig(workdir / "growth.png")
    print(f"\n{text}\n\nkept in {workdir}")


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_job, stopped="stopped; what was measured is in the workdir")


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
