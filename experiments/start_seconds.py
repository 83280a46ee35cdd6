"""Seconds from a command to its first training step, by phase: with an empty cache, and a full one.

    python -m experiments.start_seconds

Each job is started twice with one folder of compiled programs, which is empty at first, and ended
after its first step; rounds of that, and of each figure the least, for other processes only add
time.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

from absl import app, flags

from experiments import machine
from rrd_jax import errors
from rrd_jax.terminal import cli, tables

_ROUNDS = flags.DEFINE_integer("rounds", 2, "Pairs of starts of each job.", lower_bound=1)
_ONLY = flags.DEFINE_list("only", [], "Names of jobs. Default: all.")
_IMAGENET = "--config=configs/imagenet_r34_r18.py:smoke"
# Name: arguments of `rrd_jax.main`; TEACHER stands for the workdir of one.
_JOBS = {
    "digits smoke": ["--config=configs/digits.py:smoke"],
    "digits": ["--config=configs/digits.py"],
    "ImageNet pair smoke": [_IMAGENET, "--config.teacher.checkpoint=TEACHER"],
}
_PHASES = ("imports", "checks", "data", "teacher", "state", "compiling", "step")
_ENDED = "first step after "


def main(argv: list[str]) -> None:
    """Prints a table."""
    del argv
    cli.guard(_job)


def _job() -> None:
    names = _ONLY.value or list(_JOBS)
    if unknown := [name for name in names if name not in _JOBS]:
        raise errors.InputError(f"--only has '{unknown[0]}'; known are {', '.join(_JOBS)}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            arguments = _with_teacher(_JOBS[name], pathlib.Path(folder))
            cold, warm = _least(arguments, pathlib.Path(folder))
            rows += [_row(name, "empty", cold), _row(name, "full", warm)]
    print(f"`{machine.command('experiments.start_seconds')}`, {os.cpu_count()} cores of")
    print(f"{machine.processor()}, {machine.versions('jax', 'jaxlib')}\n")
    print(tables.markdown(("job", "cache", "first step after, s", *_PHASES), rows))


def _with_teacher(arguments: list[str], folder: pathlib.Path) -> list[str]:
    """The arguments, with a teacher trained if they need one."""
    teacher = folder / "teacher"
    if any("TEACHER" in argument for argument in arguments) and not teacher.exists():
        command = _command([f"{_IMAGENET},resnet34,ce"], teacher)
        environment = _environment(folder / "teachers_cache")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return [argument.replace("TEACHER", str(teacher)) for argument in arguments]


def _least(arguments: list[str], folder: pathlib.Path) -> tuple[dict, dict]:
    """(seconds by phase with an empty cache, with a full one), of the quickest starts."""
    rounds = []
    for _ in range(_ROUNDS.value):
        with tempfile.TemporaryDirectory(dir=folder) as home:
            cache, workdirs = pathlib.Path(home, "cache"), (pathlib.Path(home, n) for n in "ab")
            rounds.append([_start(arguments, workdir, cache) for workdir in workdirs])
    cold, warm = zip(*rounds, strict=True)
    return tuple(min(starts, key=lambda spent: sum(spent.values())) for starts in (cold, warm))


def _start(arguments: list[str], workdir: pathlib.Path, cache: pathlib.Path) -> dict[str, float]:
    """Seconds by phase of one start, which is ended after its first step."""
    pipe = subprocess.PIPE
    command, environment = _command(arguments, workdir), _environment(cache)
    with subprocess.Popen(command, stdout=pipe, text=True, env=environment) as process:
        for line in process.stdout:
            if _ENDED in line:
                process.send_signal(signal.SIGKILL)
                said = line.partition(_ENDED)[2].partition(": ")[2]
                return {name: float(value) for name, value in re.findall(r"(\w+) ([\d.]+)", said)}
    raise errors.InputError(f"{' '.join(command)} made no step; it ended with {process.returncode}")


def _command(arguments: list[str], workdir: pathlib.Path) -> list[str]:
    return [sys.executable, "-m", "rrd_jax.main", *arguments, f"--workdir={workdir}"]


def _environment(cache: pathlib.Path) -> dict[str, str]:
    """Of a user's process, with a cache folder of its own."""
    others = ("JAX_COMPILATION_CACHE_DIR", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if name not in others}
    return {**kept, "XDG_CACHE_HOME": str(cache), "PYTHONUNBUFFERED": "1"}


def _row(name: str, cache: str, spent: dict[str, float]) -> tuple[str, ...]:
    shown = (f"{spent[phase]:.1f}" if phase in spent else "-" for phase in _PHASES)
    return name, cache, f"{sum(spent.values()):.1f}", *shown


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
