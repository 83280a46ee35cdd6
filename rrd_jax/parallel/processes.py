"""The processes of a run: start, coordination and stop requests."""

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
_START_TIMEOUT = 300  # seconds for the other processes to start


def start(coordinator: str = "", processes: int = 0, process_id: int = 0) -> None:
    """Joins the processes of a run on several hosts; must be called before JAX starts a device.

    Args:
      coordinator: HOST:PORT of process 0; "" for JAX's detection of Cloud TPU, Slurm, Open MPI and
        Kubernetes, and for a single process elsewhere.
      processes: number of processes; 1 for a single process in any case.
      process_id: of this process, from 0.

    Raises:
      InputError: the other processes cannot be joined.
    """
    # A single Slurm task has all GPUs, but JAX would give it one.
    is_single_task = not coordinator and os.environ.get("SLURM_NTASKS") == "1"
    if processes == 1 or is_single_task:
        return
    if coordinator:
        _find_coordinator(coordinator, processes, process_id)
    # On a timeout of its own, JAX would end the process with a stack trace.
    watch = threading.Timer(_START_TIMEOUT, _give_up, [coordinator])
    watch.daemon = True
    watch.start()
    try:
        if coordinator:
            jax.distributed.initialize(
                coordinator,
                processes,
                process_id,
                cluster_detection_method="deactivate",
                initialization_timeout=2 * _START_TIMEOUT,
            )
        else:
            jax.distributed.initialize(initialization_timeout=2 * _START_TIMEOUT)
    except ValueError as error:  # JAX detects no other processes.
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
    """Ends this process while it waits for others inside JAX."""
    where = f" at --coordinator={coordinator}" if coordinator else ""
    print(
        f"error: the other processes have not joined{where} within {_START_TIMEOUT} seconds;"
        " check whether they were started, and their messages",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _find_coordinator(address: str, processes: int, process_id: int) -> None:
    """Waits until process 0 answers; returns immediately in process 0."""
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
    """Splits HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise errors.InputError(
            f"--coordinator={address} must be HOST:PORT, for example 10.0.0.2:1234"
        )
    return host.strip("[]"), int(port)


def _wait_for(host_and_port: tuple[str, int]) -> None:
    """Waits for a server: JAX would end the process if there is none."""
    end = time.monotonic() + _START_TIMEOUT
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
    """Returns (i, n): process i of n feeds the i-th of n shares of each batch."""
    return jax.process_index(), jax.process_count()


def share_of(batch: np.ndarray) -> np.ndarray:
    """Returns the share of a batch that this process feeds."""
    i, n = process_share()
    return batch[len(batch) * i // n : len(batch) * (i + 1) // n]


def is_main() -> bool:
    """Returns True in process 0, which writes files."""
    return jax.process_index() == 0


def main_first(action: Callable[[], _Result]) -> _Result:
    """Calls `action` in process 0, then in the other processes; returns this process's result.

    Raises:
      InputError: the action failed; in the other processes, that it failed in process 0.
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
    """Returns the value of process 0 in all processes."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.int32(value)))


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Raises an InputError in all processes if they disagree.

    Args:
      facts: nested JSON values that must be the same in all processes.
    """
    if jax.process_count() == 1:
        return
    text = _encoded(facts)
    lengths = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.pad(text, (0, int(lengths.max()) - len(text)))
    rows = zip(multihost_utils.process_allgather(padded), lengths, strict=True)
    by_process = [json.loads(row[:length].tobytes()) for row, length in rows]
    for process, other in enumerate(by_process):
        for name in sorted(by_process[0] | other):
            first, value = by_process[0].get(name, "absent"), other.get(name, "absent")
            if first != value:
                raise errors.InputError(
                    f"the processes disagree: {name} is {first} in process 0, and {value} in"
                    f" process {process}; start all of them with the same command, code and data"
                )


def _encoded(facts: Mapping[str, Any]) -> np.ndarray:
    """Encodes facts as JSON in an array [n] uint8."""
    return np.frombuffer(json.dumps(_flatten(facts), sort_keys=True).encode(), np.uint8)


def code_version() -> dict[str, str]:
    """Returns the versions of libraries, and a digest of this package's files."""
    digest, root = hashlib.sha256(), pathlib.Path(__file__).parent.parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
    versions = {f"the version of {name}": importlib.metadata.version(name) for name in names}
    return versions | {"the code of rrd_jax": digest.hexdigest()[:12]}


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested values, with names such as config.train.epochs."""
    flat = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


class StopRequests:
    """Requests of SIGTERM and Ctrl-C to stop a run between two steps.

    Attributes:
      saves: whether there is a step to save; until then, Ctrl-C interrupts.
    """

    def __init__(self, has_peers: bool):
        self.saves, self._has_peers, self._signal = False, has_peers, 0

    def __call__(self, step: int) -> int:
        """Returns True, or the signal's number, to stop after a step; must be called at each step.

        The result is the same in all processes.
        """
        if self._has_peers:  # JAX handles SIGTERM, and the processes agree on a step.
            return multihost_utils.reached_preemption_sync_point(step)
        return self._signal

    def handle(self, number: int, frame: object) -> None:
        """Handles a signal; a second Ctrl-C interrupts."""
        del frame
        if number == signal.SIGINT and (not self.saves or self._signal == number):
            raise KeyboardInterrupt
        self._signal = number

    def raise_unanswered(self) -> None:
        """Raises the exception of a signal that came too late to stop the run."""
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal:
            raise errors.PreemptedError("stopped by SIGTERM; run the same command again")


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Returns a context in which SIGTERM and Ctrl-C request a stop instead of ending the process.

    With several processes, none of which may stop alone, Ctrl-C interrupts immediately.

    Raises:
      KeyboardInterrupt: after Ctrl-C, if the run ended without stopping for it.
      PreemptedError: likewise after SIGTERM.
    """
    requests = StopRequests(jax.process_count() > 1)
    is_main_thread = threading.current_thread() is threading.main_thread()
    numbers = [signal.SIGTERM, signal.SIGINT] if is_main_thread and jax.process_count() == 1 else []
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):  # nohup and `&` ignore it.
        numbers = numbers[:1]
    before = {number: signal.signal(number, requests.handle) for number in numbers}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    requests.raise_unanswered()
