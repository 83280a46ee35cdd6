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

from rrd_jax import console, errors

_POLL = 0.5  # seconds between two looks at the workers
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_PATIENCE = 600  # seconds that workers have to save their state


@dataclasses.dataclass
class _Process:
    """A worker's process.

    Attributes:
      popen: the process.
      share: its environment.
      log: what it says.
    """

    popen: subprocess.Popen
    share: dict[str, str]
    log: pathlib.Path


def shares(jobs: int) -> list[dict[str, str]]:
    """What the environment of each of so many workers has beyond this one's.

    Cores are divided, and so are GPUs, or the memory of those that several workers share.

    Raises:
      InputError: a TPU, which belongs to one process, is to be shared.
    """
    cores = sorted(os.sched_getaffinity(0))
    parts = [cores[i * len(cores) // jobs : (i + 1) * len(cores) // jobs] for i in range(jobs)]
    gpus = _gpus()
    if jobs > 1 and not gpus and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")):
        raise errors.InputError(f"--jobs={jobs}: a TPU belongs to one process; leave --jobs out")
    found = []
    for i, part in enumerate(parts):
        share = {"RRD_JAX_CORES": ",".join(map(str, part or cores))}
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
    """What a worker does first, before JAX starts its threads.

    It keeps to the cores that `shares` gave it, and ends with the process that started it.
    """
    if cores := os.environ.get("RRD_JAX_CORES"):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def run(command: Sequence[str], folder: pathlib.Path, jobs: int, look: Callable[[], None]) -> None:
    """Runs workers until each has ended; one that was killed is followed by another.

    Args:
      command: of a worker.
      folder: receives logs/worker0.log and so on.
      jobs: how many.
      look: called every now and then.

    Raises:
      InputError: a worker cannot work; what it said last.
      KeyboardInterrupt: Ctrl-C came; the workers have saved their state.
      PreemptedError: SIGTERM came; likewise.
    """
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    workers = [_start(command, s, logs / f"worker{i}.log") for i, s in enumerate(shares(jobs))]
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        while workers:
            time.sleep(_POLL)
            look()
            workers = [following for worker in workers for following in _after(worker, command)]
    finally:
        _stop(workers)
        signal.signal(signal.SIGTERM, before)


def _start(command: Sequence[str], share: dict[str, str], log: pathlib.Path) -> _Process:
    with log.open("a") as out:
        # In a group of its own: Ctrl-C comes from here alone.
        popen = subprocess.Popen(
            command,
            env=os.environ | share,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return _Process(popen, share, log)


def _after(worker: _Process, command: Sequence[str]) -> list[_Process]:
    """The worker, another in its place where it was killed, or none where it has ended."""
    code = worker.popen.poll()
    if code is None:
        return [worker]
    if code == 0:
        return []
    if code < 0 or code in (75, 134, 137, 139):  # a signal, its shell's number, or a lost device
        console.warn(f"a worker was killed (exit code {code}); another goes on in its place")
        return [_start(command, worker.share, worker.log)]
    raise errors.InputError(f"a worker stopped with exit code {code}: {_last_line(worker.log)}")


def _last_line(log: pathlib.Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1].removeprefix('error: ') if lines else ''} ({log})"


def _terminate(number: int, frame: object) -> None:
    raise errors.PreemptedError(
        "stopped by SIGTERM; finished runs are kept, and the same command goes on with the others"
    )


def _stop(workers: Sequence[_Process]) -> None:
    """Lets workers save their state and end."""
    if not workers:
        return
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
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in given.split(",") if name]
    return [str(i) for i in range(len(glob.glob("/proc/driver/nvidia/gpus/*")))]


def worker_command(argv: Sequence[str], launch: str) -> list[str]:
    """The command of a worker for the same study."""
    return [sys.executable, "-m", "experiments.study", *argv, f"--launch_id={launch}", "--worker"]
