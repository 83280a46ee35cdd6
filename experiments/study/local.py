"""Concurrent workers on this machine, each with a share of the cores and devices."""

import ctypes
import dataclasses
import glob
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from rrd_jax import errors
from rrd_jax.terminal import console, interrupts

# A line in a worker's log. The runs count the deaths of a worker after this line.
READY = "the worker is ready"
# Seconds between two checks of the workers.
_POLL = 0.5
# An option of Linux's prctl.
_PR_SET_PDEATHSIG = 1
# Seconds that workers have to save their state.
_SAVE_TIMEOUT = 600
# Number of consecutive deaths before READY after which a worker is not restarted.
_MAX_EARLY_DEATHS = 3
# Environment variables of workers.
_CORES, _PARENT = "RRD_JAX_CORES", "RRD_JAX_PARENT"
# Exit codes of workers that are restarted: a lost device, or a signal reported by a shell.
_RESTART_CODES = (75, 134, 135, 136, 137, 139)
# Starts of lines that other programs write after a worker's error.
_FOREIGN_LINES = ("Traceback", "submitit", "srun:", "slurmstepd:")
# Exit codes with a separate error type; other codes raise an InputError.
_ERROR_TYPES = {1: errors.FieldError, 74: errors.DiskError, 69: errors.UnavailableError}


@dataclasses.dataclass
class Worker:
    """A worker process.

    Attributes:
      popen: the process.
      command: the command of the process.
      share: environment variables of the process.
      log: the file that receives the output.
      offset: the position in the log at which the process started, in bytes.
      deaths: consecutive deaths of previous processes that were not ready.
    """

    popen: subprocess.Popen
    command: Sequence[str]
    share: dict[str, str]
    log: pathlib.Path
    offset: int
    deaths: int


def shares(jobs: int) -> list[dict[str, str]]:
    """Returns the environment variables of each worker.

    The workers divide the cores and the GPUs between them. If there are fewer GPUs than workers,
    they divide the memory of each GPU.

    Raises:
      InputError: several jobs on a TPU, which only one process can use.
    """
    cores = sorted(os.sched_getaffinity(0))
    parts = [cores[i * len(cores) // jobs : (i + 1) * len(cores) // jobs] for i in range(jobs)]
    gpus = _gpus()
    is_cpu = os.environ.get("JAX_PLATFORMS", "").startswith("cpu")
    if jobs > 1 and not gpus and not is_cpu and _has_tpu():
        raise errors.InputError(f"--jobs={jobs}: only one process can use a TPU; leave --jobs out")
    variables = []
    for i, part in enumerate(parts):
        share = {_CORES: ",".join(map(str, part or cores)), _PARENT: str(os.getpid())}
        if gpus and jobs <= len(gpus):
            devices = gpus[i * len(gpus) // jobs : (i + 1) * len(gpus) // jobs]
            share["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        elif gpus:
            share["CUDA_VISIBLE_DEVICES"] = gpus[i % len(gpus)]
            jobs_per_gpu = -(-jobs // len(gpus))
            share["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / jobs_per_gpu:.3f}"
        variables.append(share)
    return variables


def prepare_worker() -> None:
    """Prepares a worker process, before JAX starts its threads.

    The worker is pinned to its cores of `shares`. The worker ends when the process that started it
    ends, even after a `kill -9`. On SIGTERM, a run saves its state, and the worker ends with exit
    code 75.

    Raises:
      PreemptedError: the process that started the worker has ended already.
    """
    if cores := os.environ.get(_CORES):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    if sys.platform == "linux":
        # Linux sends this signal when the thread that started this process ends. Both launchers
        # start workers in their main thread.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # The parent may have ended before the call above.
    check_stop()


def check_stop() -> None:
    """Raises the exception of a signal, or a PreemptedError for a worker without its parent.

    Raises:
      KeyboardInterrupt: Ctrl-C was pressed.
      PreemptedError: another signal was received, or the process that started this worker has
        ended.
    """
    interrupts.check()
    parent = os.environ.get(_PARENT)
    if parent and int(parent) != os.getppid():
        raise errors.PreemptedError("the process that started this worker has ended")


def run(
    commands: Sequence[Sequence[str]],
    logs: Sequence[pathlib.Path],
    update: Callable[[], None],
) -> None:
    """Runs workers until all have ended; killed workers are restarted.

    Args:
      commands: the command of each worker.
      logs: the log file of each worker.
      update: called repeatedly.

    Raises:
      InputError: a worker failed; the message contains the worker's last error.
      KeyboardInterrupt: Ctrl-C was pressed; the workers have saved their state.
      PreemptedError: another signal was received; the workers have saved their state.
    """
    workers: list[Worker] = []
    try:
        for command, share, log in zip(commands, shares(len(commands)), logs, strict=True):
            workers.append(_start(command, share, log))
        while workers:
            time.sleep(_POLL)
            interrupts.check()
            update()
            workers = [running for worker in workers for running in _poll_worker(worker)]
        update()
    finally:
        handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _stop(workers)
        signal.signal(signal.SIGTERM, handler)


def was_killed(code: int) -> bool:
    """Returns True if a worker with this exit code must be restarted."""
    return code < 0 or code in _RESTART_CODES


def _start(
    command: Sequence[str], share: dict[str, str], log: pathlib.Path, deaths: int = 0
) -> Worker:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        offset = out.tell()
        # In a separate session, Ctrl-C reaches workers only through this process.
        popen = subprocess.Popen(
            command,
            env=os.environ | share,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Worker(popen, command, share, log, offset, deaths)


def _poll_worker(worker: Worker) -> list[Worker]:
    """Returns the worker, its replacement if it was killed, or no worker if it has ended."""
    code = worker.popen.poll()
    if code is None:
        return [worker]
    if code == 0:
        return []
    if not was_killed(code):
        kind = _ERROR_TYPES.get(code, errors.InputError)
        raise kind(f"a worker stopped with exit code {code}: {reason(worker.log, worker.offset)}")
    deaths = 0 if READY in _text(worker.log, worker.offset) else worker.deaths + 1
    if deaths >= _MAX_EARLY_DEATHS:
        raise errors.InputError(
            f"a worker was killed {deaths} times during its start (exit code {code}):"
            f" {reason(worker.log, worker.offset)}"
        )
    console.warn(f"a worker was killed (exit code {code}); starting another worker")
    return [_start(worker.command, worker.share, worker.log, deaths)]


def reason(log: pathlib.Path, offset: int = 0) -> str:
    """Returns why a program ended: the last error in its log, or the last line."""
    lines = [line.strip() for line in _text(log, offset).splitlines() if line.strip()]
    starts = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    # The line after the error contains the position in the source.
    message = lines[starts[-1] :][:2] if starts else lines[-1:]
    message = [line for line in message if not line.startswith(_FOREIGN_LINES)]
    return f"{' '.join(message).removeprefix('error: ')[:2000] or 'no output'} ({log})"


def _text(log: pathlib.Path, offset: int) -> str:
    try:
        return log.read_bytes()[offset:].decode(errors="replace")
    except OSError:
        return ""


def _stop(workers: Sequence[Worker]) -> None:
    """Stops workers and waits until they have saved their state."""
    for worker in workers:
        worker.popen.terminate()
    end = time.monotonic() + _SAVE_TIMEOUT
    for worker in workers:
        try:
            worker.popen.wait(max(0.0, end - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            worker.popen.kill()
            worker.popen.wait()


def _gpus() -> list[str]:
    """Returns the GPUs that this process can use, in the notation of CUDA_VISIBLE_DEVICES."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(i) for i in range(len(glob.glob("/proc/driver/nvidia/gpus/*")))]
    names = []
    for name in visible.split(","):
        # CUDA ignores such a name and all names after it.
        if name.strip() in ("", "-1", "NoDevFiles"):
            break
        names.append(name.strip())
    return names


def _has_tpu() -> bool:
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))
