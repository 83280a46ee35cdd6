"""A reader of the speed benchmark: a process that compiles a train step and times it."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
from collections.abc import Sequence
from typing import Any

_SCRIPTS = pathlib.Path(__file__).parent / "peers"


def first_cores(count: int) -> list[int]:
    """Returns the numbers of the first `count` cores that this process may use; 0 for all."""
    available = sorted(os.sched_getaffinity(0))
    return available[: count or len(available)]


class ReaderError(RuntimeError):
    """An error for a reader that ended early; the message is a line of its output."""


class Reader:
    """A process that compiles a task's steps and then answers requests.

    Args:
      python: interpreter of the process.
      script: a file in peers/.
      task: the task, which the script gets as a JSON argument.
      log: file for the standard error output of the process.
      cores: numbers of the cores that the process may use; None for all.
      kernels: folder for kernels of torch.compile; None for PyTorch's default.

    Attributes:
      ready: JSON report of the process once it is ready.

    Raises:
      ReaderError: the process ends before it is ready.
    """

    def __init__(
        self,
        python: str,
        script: str,
        task: dict[str, Any],
        log: pathlib.Path,
        cores: Sequence[int] | None = None,
        kernels: pathlib.Path | None = None,
    ):
        self._log = log
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                [python, str(_SCRIPTS / script), json.dumps(task)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={
                    **os.environ,
                    # Several readers share a device, so that no reader may reserve its memory.
                    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
                    **({"TORCHINDUCTOR_CACHE_DIR": str(kernels)} if kernels else {}),
                },
            )
        # If the process has ended, `_answer` raises an error.
        with contextlib.suppress(ProcessLookupError):
            # Threads that the process starts later inherit the cores.
            os.sched_setaffinity(self._process.pid, cores or os.sched_getaffinity(0))
        try:
            self.ready = self._answer()
        except BaseException:
            self.close()
            raise

    def round(self, case: str) -> float:
        """Runs a round of a case and returns the seconds per step; raises as `request`."""
        return self.request("round", case)["seconds"]

    def request(self, kind: str, case: str = "") -> dict[str, Any]:
        """Sends a request, see peers/ours.py, and returns the answer.

        Raises:
          ReaderError: the process ends without an answer.
        """
        # If the process has ended, `_answer` raises an error.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{kind} {case}\n")
            self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        while line := self._process.stdout.readline():
            # Libraries may print other lines.
            if line.startswith("{"):
                return json.loads(line)
        code = self._process.wait()
        lines = [line.strip() for line in self._log.read_text().split("\n") if line.strip()]
        exceptions = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        raise ReaderError((exceptions or lines or [f"exit code {code}"])[-1])
