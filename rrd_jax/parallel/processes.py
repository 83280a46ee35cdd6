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
from jax._src import distributed
from jax.experimental import multihost_utils

from rrd_jax import errors
from rrd_jax.terminal import console, interrupts, peers, runtime_errors

_Result = TypeVar("_Result")
# Seconds for the other processes to start.
_START_TIMEOUT = 300
# Milliseconds for all processes to connect to the watch of process 0.
_WATCH_TIMEOUT = 60_000


def start(coordinator: str = "", processes: int = 0, process_id: int = 0) -> None:
    """Joins the processes of a run on several hosts; must be called before JAX starts a device.

    Args:
      coordinator: HOST:PORT of process 0. "" selects JAX's detection of Cloud TPU, Slurm, Open MPI
        and Kubernetes, and a single process elsewhere.
      processes: number of processes; 1 for a single process without any detection.
      process_id: id of this process, from 0.

    Raises:
      InputError: the other processes cannot be joined, or the ids do not fit.
    """
    # A single Slurm task may use all GPUs, but JAX's detection would use only one.
    is_single_task = not coordinator and os.environ.get("SLURM_NTASKS") == "1"
    if processes == 1 or is_single_task:
        return
    if coordinator:
        _find_coordinator(coordinator, processes, process_id)
    # JAX's timeout, which ends the process with a stack trace, is longer than this timer.
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
    # JAX detects no other processes.
    except ValueError as error:
        if processes or process_id:
            raise errors.FieldError(
                f"--processes={processes} --process_id={process_id} needs the address of process 0;"
                " add --coordinator=HOST:PORT"
            ) from error
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise errors.InputError(
            f"the other processes cannot be joined ({reason}); check --coordinator and the messages"
            " of the other processes"
        ) from error
    finally:
        watch.cancel()
    _watch_peers()
    if processes and jax.process_count() != processes:
        raise errors.InputError(
            f"--processes={processes}, but JAX detects {jax.process_count()} processes; omit the"
            " flag"
        )


def _watch_peers() -> None:
    """Ends this process with code 75 from now on if another process dies; see `terminal.peers`.

    JAX's coordination service passes the address of process 0, which its public interface lacks.

    Raises:
      LostError: another process has died meanwhile.
    """
    state, name = distributed.global_state, "rrd_jax/peers"
    client, links = state.client, []
    if client is None or state.num_processes == 1:
        return
    others = state.num_processes - 1
    with runtime_errors.translated():
        if state.process_id == 0:
            server = peers.Server()
            client.key_value_set(name, json.dumps(server.address))
            links = server.accept(others)
        else:
            text = client.blocking_key_value_get(name, _WATCH_TIMEOUT)
            host = state.coordinator_address.rpartition(":")[0].strip("[]")
            address = peers.Address(*json.loads(text))
            links = peers.connect(host, address, state.process_id)
        client.wait_at_barrier(name, _WATCH_TIMEOUT)
    peers.watch(state.process_id, links)
    if state.process_id == 0 and len(links) < others:
        console.warn(
            f"{others - len(links)} of {state.num_processes} processes cannot reach process 0 at"
            f" port {server.address.port}: if a process dies, the others end after 100 seconds with"
            " code 134; open all ports between the hosts of the run"
        )


def _give_up(coordinator: str) -> None:
    """Ends this process while JAX waits for other processes."""
    address = f" at --coordinator={coordinator}" if coordinator else ""
    print(
        f"error: the other processes have not joined{address} within {_START_TIMEOUT} seconds;"
        " check that they were started, and read their messages",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _find_coordinator(address: str, processes: int, process_id: int) -> None:
    """Waits until process 0 answers; returns immediately in process 0."""
    host_and_port = _parse(address)
    if process_id >= processes:
        raise errors.FieldError(
            f"--process_id={process_id} is too large for --processes={processes}; with"
            f" --coordinator, set --process_id from 0 to {processes - 1}"
        )
    print(f"joining process 0 of {processes} at {address}", flush=True)
    if process_id:
        _wait_for(host_and_port)


def _parse(address: str) -> tuple[str, int]:
    """Splits HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise errors.FieldError(
            f"invalid --coordinator={address}; set HOST:PORT, for example 10.0.0.2:1234"
        )
    return host.strip("[]"), int(port)


def _wait_for(host_and_port: tuple[str, int]) -> None:
    """Waits for a server, because JAX would end the process if it finds no server."""
    end = time.monotonic() + _START_TIMEOUT
    while True:
        try:
            socket.create_connection(host_and_port, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                address = ":".join(map(str, host_and_port))
                raise errors.InputError(
                    f"process 0 does not answer at --coordinator={address} ({error}); check that it"
                    " was started and that the address is correct"
                ) from error
        time.sleep(0.2)


def process_share() -> tuple[int, int]:
    """Returns (i, n): this process is process i of n, and feeds the i-th of n shares of a batch."""
    return jax.process_index(), jax.process_count()


def local_share(batch: np.ndarray) -> np.ndarray:
    """Returns the share of a batch that this process feeds."""
    i, n = process_share()
    return batch[len(batch) * i // n : len(batch) * (i + 1) // n]


def is_main() -> bool:
    """Returns True in process 0, which writes files."""
    return jax.process_index() == 0


def main_first(action: Callable[[], _Result]) -> _Result:
    """Calls `action` in process 0, then in the other processes; returns this process's result.

    Raises:
      InputError: the action failed in this process or in process 0.
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
        raise problem or errors.InputError("process 0 failed; read its message")
    return result if is_main() else action()


def broadcast_from_main(value: bool) -> bool:
    """Returns the value that process 0 passes, in all processes."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.int32(value)))


def check_agreement(values: Mapping[str, Any]) -> None:
    """Raises an InputError in all processes if a value differs between processes.

    Args:
      values: nested JSON values that must be equal in all processes.
    """
    if jax.process_count() == 1:
        return
    text = _encoded(values)
    lengths = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.pad(text, (0, int(lengths.max()) - len(text)))
    rows = zip(multihost_utils.process_allgather(padded), lengths, strict=True)
    by_process = [json.loads(row[:length].tobytes()) for row, length in rows]
    for process, other in enumerate(by_process):
        for name in sorted(by_process[0] | other):
            first, value = by_process[0].get(name, "absent"), other.get(name, "absent")
            if first != value:
                raise errors.InputError(
                    f"the processes disagree: {name} is {first} in process 0 but {value} in process"
                    f" {process}; start all processes with the same command, code and data"
                )


def _encoded(values: Mapping[str, Any]) -> np.ndarray:
    """Encodes values as JSON in a uint8 array [n]."""
    return np.frombuffer(json.dumps(_flatten(values), sort_keys=True).encode(), np.uint8)


def code_version() -> dict[str, str]:
    """Returns the versions of libraries and a digest of this package's files."""
    digest, root = hashlib.sha256(), pathlib.Path(__file__).parent.parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
    versions = {f"the version of {name}": importlib.metadata.version(name) for name in names}
    return versions | {"the code of rrd_jax": digest.hexdigest()[:12]}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested values into a dictionary with names such as config.train.epochs."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


class StopRequests:
    """Requests by a signal to stop a run between two steps.

    Args:
      has_peers: whether the run has several processes.
    """

    def __init__(self, has_peers: bool):
        self._has_peers = has_peers

    def __call__(self, step: int) -> int:
        """Returns the number of a signal to stop after a step, or 0; must be called at each step.

        All processes get equal results.
        """
        # With several processes, JAX handles SIGTERM, and the processes agree on a step.
        if self._has_peers:
            interrupts.check()
            return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else 0
        return interrupts.received()


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Returns a context in which signals request a stop instead of ending the process.

    With several processes, which must stop together, Ctrl-C interrupts immediately, and JAX handles
    SIGTERM.

    Raises:
      KeyboardInterrupt: Ctrl-C arrived too late to stop the run.
      PreemptedError: another signal arrived too late to stop the run.
    """
    has_peers = jax.process_count() > 1
    mode = interrupts.Mode.RAISE if has_peers else interrupts.Mode.RECORD
    signals = [n for n in interrupts.SIGNALS if not (has_peers and n == signal.SIGTERM)]
    with interrupts.handled(mode, signals):
        yield StopRequests(has_peers)
