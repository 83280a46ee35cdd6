"""A server that imports everything once and forks a process for each command.

Each command runs in a separate process, with separate arguments, environment and output. Only the
imports, which take most of a short command's time, are shared. JAX is not initialized before the
fork.
"""

import contextlib
import importlib
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

_ROOT = pathlib.Path(__file__).parent.parent


class Outcome(NamedTuple):
    """The outcome of a command.

    Attributes:
      code: the exit code; None if the command timed out.
      out: standard output.
      err: standard error.
    """

    code: int | None
    out: str
    err: str

    def check_refused(self, *codes: int) -> str:
        """Asserts that the command failed with a short message; returns the message."""
        assert self.code in codes, (self.code, self.err[-2000:])
        assert f'File "{_ROOT / "rrd_jax"}' not in self.out + self.err
        lines = self.err.strip().splitlines()
        assert len(lines) <= 6, self.err
        assert any(line.startswith("error: ") for line in lines), self.err
        return self.err


class Commands:
    """A context manager that starts the server and stops it."""

    def __enter__(self) -> "Commands":
        command = [sys.executable, "-m", "tests.forks"]
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=_ROOT)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._server.stdin.close()
        self._server.wait()

    def run(
        self,
        *arguments: str,
        module: str = "rrd_jax.main",
        env: Mapping[str, str] | None = None,
        cwd: pathlib.Path = _ROOT,
        seconds: float = 120,
    ) -> Outcome:
        """Runs `python -m MODULE ARGUMENTS`, or `python FILE` if the module is a path to a file."""
        request = (module, [str(a) for a in arguments], dict(env or {}), str(cwd), seconds)
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return Outcome(*json.loads(self._server.stdout.readline()))


def _serve() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.argv = ["python"]
    # Python warns about forks of a process with threads, but the threads of this server only wait.
    warnings.simplefilter("ignore", DeprecationWarning)
    # Modules that define flags are left out, because each command defines its flags itself.
    for module in ("evaluation", "jobs.job", "library", "weights.files"):
        importlib.import_module(f"rrd_jax.{module}")
    importlib.import_module("sklearn.datasets")
    for line in sys.stdin:
        replies.write(json.dumps(_fork(*json.loads(line))) + "\n")
        replies.flush()


def _fork(
    module: str, arguments: list[str], env: dict[str, str], cwd: str, seconds: float
) -> tuple[int | None, str, str]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            for file, number in ((out, 1), (err, 2)):
                os.dup2(file.fileno(), number)
            os.setsid()
            os._exit(_run(module, arguments, env, cwd))
        code = _wait(child, seconds)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return code, *texts


def _run(module: str, arguments: list[str], env: dict[str, str], cwd: str) -> int:
    """Runs a command in the child process; returns its exit code."""
    os.environ.update(env)
    os.chdir(cwd)
    if "JAX_PLATFORMS" in env:
        import jax

        jax.config.update("jax_platforms", env["JAX_PLATFORMS"])
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)
    code: Any = 0
    try:
        if module.endswith(".py"):
            sys.path.insert(0, str(pathlib.Path(module).parent))
            runpy.run_path(module, run_name="__main__")
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as exit_request:
        code = exit_request.code or 0
    except BaseException:
        traceback.print_exc()
        code = 99
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code if isinstance(code, int) else 1


def _wait(child: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        exited, status = os.waitpid(child, os.WNOHANG)
        if exited:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    _serve()
