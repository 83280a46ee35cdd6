"""Workers side by side on this machine, each with its share of the cores and devices."""

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
from rrd_jax.terminal import console

READY = "the worker is ready"  # In a worker's log; later deaths are counted by the runs.
_POLL = 0.5  # Seconds between two checks of the workers.
_PR_SET_PDEATHSIG = 1  # Of Linux's prctl.
_PATIENCE = 600  # Seconds that workers have to save their state.
_UNREADY = 3  # Consecutive deaths before it was ready, after which a worker is not restarted.
_CORES, _PARENT = "RRD_JAX_CORES", "RRD_JAX_PARENT"  # Environment variables of workers.
_received: list[int] = []  # SIGTERM, after it was received.
# Exit codes of workers that are restarted: a lost device, or a signal reported by a shell.
_AGAIN = (75, 134, 135, 136, 137, 139)
_OF_OTHERS = ("Traceback", "submitit", "srun:", "slurmstepd:")  # Lines after a worker's error.
# Exit codes of errors that end the study, too.
_KINDS = {74: errors.DiskError, 69: errors.UnavailableError}


@dataclasses.dataclass
class Worker:
    """A worker's process.

    Attributes:
      popen: the process.
      command: of the process.
      share: its environment variables.
      log: its output.
      begin: the position in the log at which the process started.
      deaths: consecutive deaths of previous processes that were not ready.
    """

    popen: subprocess.Popen
    command: Sequence[str]
    share: dict[str, str]
    log: pathlib.Path
    begin: int
    deaths: int


def shares(jobs: int) -> list[dict[str, str]]:
    """Returns the environment variables of each worker.

    Cores are divided between workers, and so are GPUs, or the memory of GPUs that they share.

    Raises:
      InputError: a TPU, which belongs to one process, is to be shared.
    """
    cores = sorted(os.sched_getaffinity(0))
    parts = [cores[i * len(cores) // jobs : (i + 1) * len(cores) // jobs] for i in range(jobs)]
    gpus = _gpus()
    is_cpu = os.environ.get("JAX_PLATFORMS", "").startswith("cpu")
    if jobs > 1 and not gpus and not is_cpu and _has_tpu():
        raise errors.InputError(f"--jobs={jobs}: a TPU belongs to one process; leave --jobs out")
    found = []
    for i, part in enumerate(parts):
        share = {_CORES: ",".join(map(str, part or cores)), _PARENT: str(os.getpid())}
        if gpus and jobs <= len(gpus):
            own = gpus[i * len(gpus) // jobs : (i + 1) * len(gpus) // jobs]
            share["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        elif gpus:
            share["CUDA_VISIBLE_DEVICES"] = gpus[i % len(gpus)]
            together = -(-jobs // len(gpus))
            share["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / together:.3f}"
        found.append(share)
    return found


def begin() -> None:
    """Prepares a worker process, before JAX starts its threads.

    The worker is pinned to the cores of `shares`, and ends with the process that started it, even
    after a `kill -9`. At SIGTERM it ends with exit code 75; a run saves its state first.

    Raises:
      PreemptedError: the process that started the worker has ended already.
    """
    end_at_sigterm()
    if cores := os.environ.get(_CORES):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    if sys.platform == "linux":
        # It comes when the thread ends that started this process: both start it in the main one.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    check_stop()  # The parent may have ended before the call above.


def check_stop() -> None:
    """Ends a worker whose PreemptedError was caught by a library.

    Raises:
      PreemptedError: SIGTERM came, or the process that started this worker has ended.
    """
    if _received:
        _terminate(signal.SIGTERM, None)
    parent = os.environ.get(_PARENT)
    if parent and int(parent) != os.getppid():
        raise errors.PreemptedError("the process that started this worker has ended")


def run(
    commands: Sequence[Sequence[str]],
    logs: Sequence[pathlib.Path],
    look: Callable[[], None],
) -> None:
    """Runs workers until each has ended; a killed worker is restarted.

    Args:
      commands: of each worker.
      logs: of each worker.
      look: called repeatedly.

    Raises:
      InputError: a worker failed; the message has its last error.
      KeyboardInterrupt: Ctrl-C came; the workers have saved their state.
      PreemptedError: SIGTERM came, after `end_at_sigterm`; likewise.
    """
    workers: list[Worker] = []
    try:
        for command, share, log in zip(commands, shares(len(commands)), logs, strict=True):
            workers.append(_start(command, share, log))
        while workers:
            time.sleep(_POLL)
            look()
            workers = [following for worker in workers for following in _after(worker)]
        look()
    finally:
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _stop(workers)
        signal.signal(signal.SIGTERM, before)


def end_at_sigterm() -> None:
    """Makes SIGTERM raise a PreemptedError in this process."""
    signal.signal(signal.SIGTERM, _terminate)


def was_killed(code: int) -> bool:
    """Returns True if a worker with this exit code is to be restarted."""
    return code < 0 or code in _AGAIN


def _start(
    command: Sequence[str], share: dict[str, str], log: pathlib.Path, deaths: int = 0
) -> Worker:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        begin = out.tell()
        # In a separate session, so that Ctrl-C reaches workers through this process only.
        popen = subprocess.Popen(
            command,
            env=os.environ | share,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Worker(popen, command, share, log, begin, deaths)


def _after(worker: Worker) -> list[Worker]:
    """Returns the worker, its replacement if it was killed, or nothing if it has ended."""
    code = worker.popen.poll()
    if code is None:
        return [worker]
    if code == 0:
        return []
    if not was_killed(code):
        kind = _KINDS.get(code, errors.InputError)
        raise kind(f"a worker stopped with exit code {code}: {reason(worker.log, worker.begin)}")
    deaths = 0 if READY in _text(worker.log, worker.begin) else worker.deaths + 1
    if deaths >= _UNREADY:
        raise errors.InputError(
            f"a worker was killed {deaths} times as it began (exit code {code}):"
            f" {reason(worker.log, worker.begin)}"
        )
    console.warn(f"a worker was killed (exit code {code}); another goes on in its place")
    return [_start(worker.command, worker.share, worker.log, deaths)]


def reason(log: pathlib.Path, begin: int = 0) -> str:
    """Returns why a program ended, from its log: its last error, or the last line."""
    lines = [line.strip() for line in _text(log, begin).splitlines() if line.strip()]
    starts = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    message = lines[starts[-1] :][:2] if starts else lines[-1:]  # the second says where it is from
    message = [line for line in message if not line.startswith(_OF_OTHERS)]
    return f"{' '.join(message).removeprefix('error: ')[:2000] or 'it said nothing'} ({log})"


def _text(log: pathlib.Path, begin: int) -> str:
    try:
        return log.read_bytes()[begin:].decode(errors="replace")
    except OSError:
        return ""


def _terminate(number: int, frame: object) -> None:
    del frame
    _received.append(number)
    raise errors.PreemptedError(
        "stopped by SIGTERM; finished runs are kept, and the same command goes on with the others"
    )


def _stop(workers: Sequence[Worker]) -> None:
    """Stops workers, which save their state first."""
    for worker in workers:
        worker.popen.terminate()
    end = time.monotonic() + _PATIENCE
    for worker in workers:
        try:
            worker.popen.wait(max(0.0, end - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            worker.popen.kill()
            worker.popen.wait()


def _gpus() -> list[str]:
    """Returns the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(i) for i in range(len(glob.glob("/proc/driver/nvidia/gpus/*")))]
    names = []
    for name in given.split(","):
        if name.strip() in ("", "-1", "NoDevFiles"):  # CUDA ignores this name and those after it.
            break
        names.append(name.strip())
    return names


def _has_tpu() -> bool:
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))
