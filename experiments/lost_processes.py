"""Measures how the processes of a run end after one of them is lost, and how the run resumes.

    python -m experiments.lost_processes --processes=1,2,4 --losses=8 --signals=KILL,TERM

Each attempt starts a run of `configs/digits.py` with several processes on this machine, and kills,
terminates or suspends one of them at a random moment after a line of the log. Then the run resumes
with another number of processes. The table with the exit codes, the seconds until the other
processes ended, and the difference from an uninterrupted run is written to
<workdir>/lost_processes.md.
"""

import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

from absl import app, flags

from rrd_jax.run_folder import atomic_write
from rrd_jax.terminal import cli, path_flags, tables

_PROCESSES = flags.DEFINE_list("processes", ["1", "2", "4"], "Numbers of processes.")
_LOSSES = flags.DEFINE_integer("losses", 8, "Attempts for each number.", lower_bound=1)
_SIGNALS = flags.DEFINE_list("signals", ["KILL", "TERM"], "Signals in turns: KILL, TERM, STOP.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the moments.")
_WORKDIR = path_flags.define_path("workdir", "runs/lost-processes", "New folder for all runs.")

_FIELDS = [
    "baseline=False",
    "teacher.epochs=1",
    "train.epochs=6",
    "train.batch_size=40",
    "train.save_every=2",
]
# The moments of a loss: the text in the log after which it occurs, and the seconds within which.
_MOMENTS = {
    "start": (" cpu", 4.0),
    "teacher": ("[teacher] time to first step", 4.0),
    "next stage": ("[teacher] epoch", 6.0),
    "steps and saves": ("rrd+kd] epoch", 4.0),
}
# Seconds for a moment to arrive, and for the other processes to end.
_PATIENCE = 300.0


class Loss(NamedTuple):
    """The outcome of an attempt.

    Attributes:
      processes: number of processes.
      signal: name of the signal.
      process: the process that received the signal.
      moment: the stage of the run and the delay in seconds after which the signal was sent.
      ends: exit code and seconds since the signal, of all processes but a killed one.
      message: the error of the first of these processes.
      processes_after: number of processes of the resumed run.
      resumed: the step from which the run was resumed, "start" without a checkpoint.
      difference: largest relative difference of a training loss from the uninterrupted run.
    """

    processes: int
    signal: str
    process: int
    moment: str
    ends: list[tuple[int, float]]
    message: str
    processes_after: int
    resumed: str
    difference: float


def lose(
    folder: pathlib.Path,
    count: int,
    count_after: int,
    number: signal.Signals,
    moment: str,
    rng: random.Random,
) -> Loss:
    """Starts a run, sends a signal to one of its processes, and resumes the run.

    Args:
      folder: a new folder for the run and its output, beside that of the uninterrupted run.
      count: number of processes.
      count_after: number of processes of the resumed run.
      number: the signal.
      moment: a name in `_MOMENTS`.
      rng: selects the process and the delay.
    """
    text, seconds = _MOMENTS[moment]
    victim, delay = rng.randrange(count), rng.uniform(0, seconds)
    processes = _start(folder, count)
    try:
        _await_text(folder, processes, text)
        time.sleep(delay)
        processes[victim].send_signal(number)
        start, watched = time.monotonic(), list(range(count))
        if number != signal.SIGTERM and count > 1:
            watched.remove(victim)
        ends = _ends([processes[i] for i in watched], start)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    errors = re.findall("^error: .*", _log(folder, watched[0]), re.MULTILINE)
    resumed = _finish(folder, count_after)
    return Loss(
        count,
        number.name,
        victim,
        f"{moment}, {delay:.1f} s",
        ends,
        " ".join(errors),
        count_after,
        resumed,
        _difference(folder),
    )


def _start(folder: pathlib.Path, count: int) -> list[subprocess.Popen]:
    """Starts the processes of a run; each appends to a log."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    options = [
        "--config=configs/digits.py:resnet8-resnet8,rrd+kd",
        f"--workdir={folder / 'run'}",
        *(f"--config.{field}" for field in _FIELDS),
    ]
    processes = []
    for i in range(count):
        with (folder / f"{i}.log").open("a") as log:
            command = [sys.executable, "-m", "rrd_jax.main", *options]
            if count > 1:
                command += [f"--coordinator={address}", f"--processes={count}", f"--process_id={i}"]
            environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
            processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
    return processes


def _finish(folder: pathlib.Path, count: int) -> str:
    """Runs until the end, as the launch files do; returns the step of the first resumption."""
    start = len(_log(folder, 0))
    while any(codes := [process.wait() for process in _start(folder, count)]):
        if not {75, 134}.issuperset(codes):
            raise RuntimeError(f"exit codes {codes}: {_log(folder, 0)[start:]}")
    log = _log(folder, 0)[start:]
    match = re.search(r"resuming from step (\d+)", log)
    return match[1] if match else "start"


def _difference(folder: pathlib.Path) -> float:
    """Returns the largest relative difference of a loss from that of the uninterrupted run."""
    losses = _losses(folder / "run")
    expected = _losses(folder.parent / "uninterrupted" / "run")
    if len(losses) != len(expected):
        raise RuntimeError(f"{folder} has {len(losses)} epochs instead of {len(expected)}")
    return max(abs(a / b - 1) for a, b in zip(losses, expected, strict=True))


def _losses(workdir: pathlib.Path) -> list[float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["train/loss"] for line in lines]


def _log(folder: pathlib.Path, process: int) -> str:
    path = folder / f"{process}.log"
    return path.read_text(errors="replace") if path.exists() else ""


def _await_text(folder: pathlib.Path, processes: list[subprocess.Popen], text: str) -> None:
    end = time.monotonic() + _PATIENCE
    while text not in _log(folder, 0):
        if time.monotonic() > end or any(p.poll() is not None for p in processes):
            raise RuntimeError(f"'{text}' is missing in {folder}/0.log")
        time.sleep(0.05)


def _ends(processes: list[subprocess.Popen], start: float) -> list[tuple[int, float]]:
    """Waits for processes; returns exit codes, -9 if they have not ended in time, and seconds."""
    ends: dict[int, tuple[int, float]] = {}
    while len(ends) < len(processes) and time.monotonic() < start + _PATIENCE:
        for i, process in enumerate(processes):
            if i not in ends and process.poll() is not None:
                ends[i] = process.returncode, time.monotonic() - start
        time.sleep(0.01)
    late = (-9, time.monotonic() - start)
    return [ends.get(i, late) for i in range(len(processes))]


def table(losses: list[Loss]) -> str:
    """Returns the table of all attempts in Markdown."""
    heads = ["processes", "signal", "moment", "exit codes", "seconds"]
    heads += ["restarted with", "resumed from step", "difference of losses"]
    rows = [
        [
            str(loss.processes),
            f"{loss.signal} to {loss.process}",
            loss.moment,
            ", ".join(str(code) for code, _ in loss.ends),
            f"{max(seconds for _, seconds in loss.ends):.1f}",
            str(loss.processes_after),
            loss.resumed,
            f"{loss.difference:.0e}" if loss.difference else "0",
        ]
        for loss in losses
    ]
    return tables.markdown(heads, rows)


def main(argv: list[str]) -> None:
    """Measures and writes the table."""
    del argv
    losses, workdir = [], pathlib.Path(_WORKDIR.value)
    _finish(workdir / "uninterrupted", 1)
    counts = [int(count) for count in _PROCESSES.value]
    for count in counts:
        rng = random.Random(f"{_SEED.value} {count}")
        for i in range(_LOSSES.value):
            name = _SIGNALS.value[i % len(_SIGNALS.value)]
            moment = [*_MOMENTS][i % len(_MOMENTS)]
            count_after = counts[(counts.index(count) + i) % len(counts)]
            number = signal.Signals[f"SIG{name}"]
            folder = workdir / f"{count}-{i}"
            losses.append(lose(folder, count, count_after, number, moment, rng))
            print(losses[-1], flush=True)
            atomic_write.write_text(workdir / "lost_processes.md", table(losses) + "\n")


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
