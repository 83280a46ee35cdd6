"""The processes of a run: how they join, which writes, and when all of them stop."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from rrd_jax import errors

_Result = TypeVar("_Result")
_PATIENCE = 300  # seconds for the other processes to start


def start(coordinator: str = "", processes: int = 0, process_id: int = 0) -> None:
    """Joins the processes of a run on several hosts; to be called before JAX sees a device.

    Args:
      coordinator: HOST:PORT of process 0; "" for what JAX finds out by itself on Cloud TPU, Slurm,
        Open MPI and Kubernetes, and for a single process elsewhere.
      processes: how many there are; 1 for a single process in any case.
      process_id: of this process, from 0.

    Raises:
      InputError: the other processes cannot be joined.
    """
    alone = not coordinator and os.environ.get("SLURM_NTASKS") == "1"
    if processes == 1 or alone:  # JAX gives each task of Slurm one GPU, and this task has them all
        return
    if coordinator:
        _find_coordinator(coordinator, processes, process_id)
    # JAX would end the process with a stack trace of its own.
    watch = threading.Timer(_PATIENCE, _give_up, [coordinator])
    watch.daemon = True
    watch.start()
    try:
        if coordinator:
            jax.distributed.initialize(
                coordinator,
                processes,
                process_id,
                cluster_detection_method="deactivate",
                initialization_timeout=2 * _PATIENCE,
            )
        else:
            jax.distributed.initialize(initialization_timeout=2 * _PATIENCE)
    except ValueError as error:  # there is nothing to join
        if processes or process_id:
            raise errors.InputError(
                f"--processes={processes} --process_id={process_id}, but nothing says where the"
                " others are; add --coordinator=HOST:PORT of process 0"
            ) from error
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise errors.InputError(f"the other processes cannot be joined ({reason})") from error
    finally:
        watch.cancel()
    if processes and jax.process_count() != processes:
        raise errors.InputError(
            f"--processes={processes}, but the host says {jax.process_count()}; leave the flag out"
        )


def _give_up(coordinator: str) -> None:
    """Ends this process, which waits for others inside of JAX."""
    where = f" at --coordinator={coordinator}" if coordinator else ""
    print(
        f"error: the other processes have not joined{where} within {_PATIENCE} seconds; see whether"
        " they were started, and what they said",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _find_coordinator(address: str, processes: int, process_id: int) -> None:
    """Returns once process 0 answers at its address; at once in process 0."""
    host_and_port = _parse(address)
    if process_id >= processes:
        raise errors.InputError(
            f"--process_id={process_id} of --processes={processes}: with --coordinator, ids are"
            " 0 to the number of processes less one"
        )
    print(f"joining process 0 of {processes} at {address}", flush=True)
    if process_id:
        _wait_for(host_and_port)


def _parse(address: str) -> tuple[str, int]:
    """Host and port."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise errors.InputError(
            f"--coordinator={address} must be HOST:PORT, for example 10.0.0.2:1234"
        )
    return host.strip("[]"), int(port)


def _wait_for(host_and_port: tuple[str, int]) -> None:
    """Returns when something answers there: JAX would end the process where nothing does."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection(host_and_port, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                address = ":".join(map(str, host_and_port))
                raise errors.InputError(
                    f"process 0 does not answer at --coordinator={address} ({error})"
                ) from error
        time.sleep(0.2)


def process_share() -> tuple[int, int]:
    """(i, n): this is process i of n, and feeds the i-th of n shares of each batch."""
    return jax.process_index(), jax.process_count()


def share_of(batch: np.ndarray) -> np.ndarray:
    """The part of a batch that this process feeds."""
    i, n = process_share()
    return batch[len(batch) * i // n : len(batch) * (i + 1) // n]


def is_main() -> bool:
    """Whether this process writes what is written once: process 0 does."""
    return jax.process_index() == 0


def main_first(action: Callable[[], _Result]) -> _Result:
    """Calls `action` in process 0, then in the other processes; returns its result in this one.

    Raises:
      InputError: what the action raised; in the other processes, that it failed in process 0.
    """
    if jax.process_count() == 1:
        return action()
    result, problem = None, None
    if is_main():
        try:
            result = action()
        except (errors.InputError, OSError) as error:
            problem = error
    if multihost_utils.broadcast_one_to_all(np.int32(problem is not None)):
        raise problem or errors.InputError("process 0 cannot go on; its message says why")
    return result if is_main() else action()


def as_main(value: bool) -> bool:
    """The value that process 0 gives, in all processes."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.int32(value)))


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Raises an InputError, in all processes, where they disagree.

    Args:
      facts: JSON values, nested as they may be, that must be the same in all processes.
    """
    if jax.process_count() == 1:
        return
    text = _encoded(facts)
    lengths = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.pad(text, (0, int(lengths.max()) - len(text)))
    rows = zip(multihost_utils.process_allgather(padded), lengths, strict=True)
    theirs = [json.loads(row[:length].tobytes()) for row, length in rows]
    for process, other in enumerate(theirs):
        for name in sorted(theirs[0] | other):
            there, here = theirs[0].get(name, "absent"), other.get(name, "absent")
            if there != here:
                raise errors.InputError(
                    f"the processes disagree: {name} is {there} in process 0, and {here} in process"
                    f" {process}; start all of them with the same command, code and data"
                )


def _encoded(facts: Mapping[str, Any]) -> np.ndarray:
    """[n] uint8: their JSON, which processes can send each other."""
    return np.frombuffer(json.dumps(_flatten(facts), sort_keys=True).encode(), np.uint8)


def code_version() -> dict[str, str]:
    """What computes: the versions of the libraries, and a digest of our own files."""
    digest, root = hashlib.sha256(), pathlib.Path(__file__).parent.parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
    versions = {f"the version of {name}": importlib.metadata.version(name) for name in names}
    return versions | {"the code of rrd_jax": digest.hexdigest()[:12]}


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by their path, such as config.train.epochs."""
    flat = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


class StopRequests:
    """What signals ask of a run, between its steps.

    Attributes:
      saves: whether there is a step to save. Before, Ctrl-C interrupts what is going on.
    """

    def __init__(self, together: bool):
        self.saves, self._together, self._asked = False, together, 0

    def __call__(self, step: int) -> int:
        """Whether to stop after a step, the same in all processes; to be asked at each step.

        A process that runs alone is told the number of the signal.
        """
        if self._together:  # JAX catches SIGTERM; the processes agree on a step
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def handle(self, number: int, frame: object) -> None:
        """Takes a signal; a second Ctrl-C interrupts too."""
        del frame
        if number == signal.SIGINT and (not self.saves or self._asked == number):
            raise KeyboardInterrupt
        self._asked = number

    def raise_unanswered(self) -> None:
        """Ends what comes after the run, if a signal came too late to stop the run."""
        if self._asked == signal.SIGINT:
            raise KeyboardInterrupt
        if self._asked:
            raise errors.PreemptedError("stopped by SIGTERM; the same command goes on from there")


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """While it lasts, SIGTERM and Ctrl-C ask a run to stop and do not end the process.

    Where there are several processes, none of which may stop alone, Ctrl-C interrupts at once.

    Raises:
      KeyboardInterrupt: Ctrl-C came, and the run ended without asking.
      PreemptedError: likewise for SIGTERM.
    """
    requests = StopRequests(jax.process_count() > 1)
    alone = threading.current_thread() is threading.main_thread()  # others get no signals
    numbers = [signal.SIGTERM, signal.SIGINT] if alone and jax.process_count() == 1 else []
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):  # as for nohup and `&`
        numbers = numbers[:1]
    before = {number: signal.signal(number, requests.handle) for number in numbers}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    requests.raise_unanswered()
