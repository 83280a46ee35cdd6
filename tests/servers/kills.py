"""Runs in emulated buckets that are killed at requests, and their comparison with a local run.

    python -m tests.servers.kills --moments=20

prints a table of kills: the request at which the run was killed, what the server received of it,
the step from which the run was resumed, and whether the run ended with the bits of a local run.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import signal
import tempfile
import threading
from typing import NamedTuple

from rrd_jax import checkpoints, user_paths
from rrd_jax.checkpoints import storage
from tests import servers
from tests.forks import Commands, Outcome
from tests.servers import faults

_FIELDS = {
    **{"train.epochs": 2, "train.save_every": 2, "baseline": False, "teacher.epochs": 1},
    **{"name": "killed", "compilation_cache": ""},
}
# Seconds for which the server is down after some of the kills.
_OUTAGE = 6.0
# Metrics that depend on the clock.
_CLOCK = re.compile("second|utilisation|wait")


class Ending(NamedTuple):
    """The results of a job, which must not depend on kills.

    Attributes:
      digests: the digests of all parts of the last train state, for the teacher and the student.
      rows: the rows of metrics.jsonl, without times.
    """

    digests: list[dict[str, str]]
    rows: list[list[dict]]


class Killed(NamedTuple):
    """A run that was killed and resumed.

    Attributes:
      request: the request at which the run was killed.
      received: what the server received of this request: "nothing", "half" or "all".
      outage: seconds for which the server was down after the kill.
      resumed: the lines in which the second start says from which step it resumes.
      ending: the results.
    """

    request: str
    received: str
    outage: float
    resumed: str
    ending: Ending


class Runs:
    """Commands that train a small job.

    Args:
      commands: the server that forks commands.
      scratch: a folder for caches.
      environment: variables of the commands.
    """

    def __init__(self, commands: Commands, scratch: pathlib.Path, environment: dict[str, str]):
        self._commands = commands
        self._environment = {"XDG_CACHE_HOME": str(scratch), "JAX_NUM_CPU_DEVICES": "1"}
        self._environment |= environment

    def train(self, folder: str, seconds: float = 300) -> Outcome:
        """Starts or resumes the job."""
        return self._commands.run(
            "--config=configs/digits.py:resnet8-resnet8,rrd,smoke",
            f"--workdir={folder}",
            *(f"--config.{name}={value}" for name, value in _FIELDS.items()),
            env=self._environment,
            seconds=seconds,
        )

    def finish(self, folder: str) -> tuple[str, Ending]:
        """Runs the job to its end; returns its output and its results."""
        outcome = self.train(folder)
        assert outcome.code == 0, outcome.out + outcome.err
        return outcome.out, ending(folder)

    def kill(self, server: servers.Buckets, folder: str, number: int, variant: int) -> Killed:
        """Kills the job at a request and runs it again.

        Args:
          server: the server with the folder.
          folder: the workdir.
          number: the number of requests before the kill.
          variant: selects what the server receives, and whether it is down after the kill.
        """
        killed = threading.Event()
        received = ("nothing", "half", "all")[variant % 3]
        outage = _OUTAGE if variant % 4 == 3 else 0.0
        count, request = 0, ""

        def fault(current, forward):
            nonlocal count, request
            count += 1
            # Half of a request can be received of an upload only.
            is_early = count <= number or (received == "half" and len(current.body) < 2)
            if is_early and not killed.is_set():
                return forward(current)
            if killed.is_set():
                raise faults.CutConnection
            killed.set()
            request = str(current)
            with contextlib.suppress(faults.CutConnection, OSError):
                if received == "half":
                    faults.truncated(current, forward)
                elif received == "all":
                    forward(current)
            self._kill()
            raise faults.CutConnection

        with server.proxy.fault(fault):
            outcome = self.train(folder)
        assert outcome.code == -signal.SIGKILL, (outcome.code, outcome.out, outcome.err)
        if outage:
            server.proxy.down_for(outage)
        out, result = self.finish(folder)
        resumed = re.findall(r"\[(\w+).*\] resuming from step (\d+)", out)
        starts = ", ".join(f"{label}, step {step}" for label, step in resumed)
        starts = starts or ("the start" if "epoch   1/" in out else "the end")
        return Killed(request, received, outage, starts, result)

    def _kill(self) -> None:
        """Kills the running command."""
        pid = self._commands._server.pid
        for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)


def ending(folder: str) -> Ending:
    """Reads the results of a job; raises an error for a damaged checkpoint."""
    stored, rows = [], []
    for home in (user_paths.path_of(folder), user_paths.path_of(folder) / "teacher"):
        steps = storage.steps(home / "checkpoints")
        stored.append(storage.read_json(home / "checkpoints", steps[-1])[1])
        checkpoints.load_student(home, str(steps[-1]))
        lines = (home / "metrics.jsonl").read_text().splitlines()
        rows.append(
            [
                {name: value for name, value in json.loads(line).items() if not _CLOCK.search(name)}
                for line in lines
            ]
        )
    return Ending(stored, rows)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20)
    moments = parser.parse_args().moments
    print("| bucket | killed at | received | server down | resumed from | bits of a local run |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch, Commands() as commands:
        home = pathlib.Path(scratch)
        _, expected = Runs(commands, home, {}).finish(f"{scratch}/local")
        for start in (servers.start_gcs, servers.start_s3):
            with start() as server:
                os.environ |= server.environment
                runs, bucket = Runs(commands, home, server.environment), server.bucket()
                _, undisturbed = runs.finish(f"{bucket}/whole")
                assert undisturbed == expected
                total = len(server.proxy.requests)
                for i in range(moments):
                    # The number of requests varies between runs.
                    number = int(0.85 * total * (i + 0.5) / moments)
                    killed = runs.kill(server, f"{bucket}/run{i}", number, i)
                    verdict = "yes" if killed.ending == expected else "NO"
                    moment = f"{number} of {total}: `{_short(killed.request)}`"
                    cells = [bucket[:5], moment, killed.received, f"{killed.outage:g} s"]
                    print("|", " | ".join([*cells, killed.resumed, verdict]), "|", flush=True)


def _short(request: str) -> str:
    method, _, path = request.partition(" ")
    path = re.sub(r"%2F", "/", path.partition("?")[0])
    return f"{method} {'/'.join(path.split('/')[-4:])}"[:70]


if __name__ == "__main__":
    main()
