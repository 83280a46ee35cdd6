"""A reader of the speed benchmark: a process that compiles a train step and then times it."""

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
    """The numbers of so many of the cores that this process may use; 0 for all."""
    there = sorted(os.sched_getaffinity(0))
    return there[: count or len(there)]


class ReaderError(RuntimeError):
    """A reader has ended early; the message is the line that says why."""


class Reader:
    """A process that gets ready, and then does what it is asked.

    Args:
      python: its interpreter.
      script: a file of peers.
      task: what to do; becomes the script's argument, as JSON.
      log: receives what the process writes to stderr.
      cores: numbers of those that it may use; None for all.
      kernels: folder of those that torch.compile has made; None for its usual one.

    Attributes:
      ready: what the process says once it is ready.

    Raises:
      ReaderError: it ends before it is ready.
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
                    # Several share a device: none may take its memory beforehand.
                    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
                    **({"TORCHINDUCTOR_CACHE_DIR": str(kernels)} if kernels else {}),
                },
            )
        with contextlib.suppress(ProcessLookupError):  # it has ended; `_answer` says why
            # Its threads, which start later, inherit this.
            os.sched_setaffinity(self._process.pid, cores or os.sched_getaffinity(0))
        try:
            self.ready = self._answer()
        except BaseException:
            self.close()
            raise

    def round(self, case: str) -> float:
        """Seconds a step of a case, as `ask`."""
        return self.ask("round", case)["seconds"]

    def ask(self, what: str, case: str = "") -> dict[str, Any]:
        """The answer to a request, as peers/ours.py lists them.

        Raises:
          ReaderError: the process ends instead.
        """
        with contextlib.suppress(BrokenPipeError):  # the process has ended, and will not answer
            self._process.stdin.write(f"{what} {case}\n")
            self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        while line := self._process.stdout.readline():
            if line.startswith("{"):  # whatever else libraries print
                return json.loads(line)
        code = self._process.wait()
        lines = [line.strip() for line in self._log.read_text().split("\n") if line.strip()]
        named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        raise ReaderError((named or lines or [f"exit code {code}"])[-1])
