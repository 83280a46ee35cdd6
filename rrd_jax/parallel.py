"""Processes and devices: who takes part, who holds what, and when all of them stop.

Batch and memory are split over one mesh of all devices, the rest is on every device.
"""

import contextlib
import os
import pathlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rrd_jax import errors
from rrd_jax.state import TrainState

AXIS = "data"
_Result = TypeVar("_Result")
_PATIENCE = 300  # seconds for the other processes to start
# Dense bfloat16 TFLOP/s by part of JAX's name for a device: the first that fits.
_PEAK = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "TPU7x": 2307,
    "TPU v6": 918,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5": 459,
    "TPU v4 lite": 138,
    "TPU v4": 275,
    "TPU v3": 61.5,  # of a core, as JAX counts devices there
    "TPU v2": 22.5,
}
_SMALL = 1024  # scalars: what has fewer is not worth splitting


def enable_compilation_cache() -> None:
    """Keeps compiled programs in ~/.cache/rrd_jax, unless JAX_COMPILATION_CACHE_DIR says where."""
    if not jax.config.jax_compilation_cache_dir:
        cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(cache) / "rrd_jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)  # many are small


def check_jaxlib() -> None:
    """Raises an InputError for a jaxlib that computes wrong values on the devices there are."""
    if jax.lib.__version__ == "0.10.2" and jax.default_backend() == "cpu":
        raise errors.InputError(
            "jaxlib 0.10.2 computes wrong values on a CPU (issue 39103 of jax); install another:"
            " pip install 'jax!=0.10.2'"
        )


def start(coordinator: str = "", processes: int = 0, process_id: int = 0) -> None:
    """Joins the processes of a run on several hosts; to be called before JAX sees a device.

    Args:
      coordinator: HOST:PORT of process 0; "" for what JAX finds out by itself on Cloud TPU, Slurm,
        Open MPI and Kubernetes, and for a single process elsewhere.
      processes: how many there are; 1 for a single one in any case.
      process_id: of this one, from 0.

    Raises:
      InputError: the others cannot be joined.
    """
    alone = not coordinator and os.environ.get("SLURM_NTASKS") == "1"
    if processes == 1 or alone:  # JAX gives each task of Slurm one GPU, and this one has them all
        return
    if coordinator:
        place = _parse(coordinator)
        if process_id >= processes:
            raise errors.InputError(
                f"--process_id={process_id} of --processes={processes}: with --coordinator, ids are"
                " 0 to the number of processes less one"
            )
        print(f"joining process 0 of {processes} at {coordinator}", flush=True)
        if process_id:
            _wait_for(place)
    try:
        if coordinator:
            jax.distributed.initialize(
                coordinator, processes, process_id, cluster_detection_method="deactivate"
            )
        else:
            jax.distributed.initialize()
    except ValueError as error:  # there is nothing to join
        if processes or process_id:
            raise errors.InputError(
                f"--processes={processes} --process_id={process_id}, but nothing says where the"
                " others are; add --coordinator=HOST:PORT of process 0"
            ) from error
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise errors.InputError(f"the other processes cannot be joined ({reason})") from error
    if processes and jax.process_count() != processes:
        raise errors.InputError(
            f"--processes={processes}, but the host says {jax.process_count()}; leave the flag out"
        )


def _parse(address: str) -> tuple[str, int]:
    """Host and port."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise errors.InputError(
            f"--coordinator={address} must be HOST:PORT, for example 10.0.0.2:1234"
        )
    return host.strip("[]"), int(port)


def _wait_for(place: tuple[str, int]) -> None:
    """Returns when something answers there: JAX would end the process where nothing does."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection(place, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise errors.InputError(
                    f"process 0 does not answer at --coordinator={place[0]}:{place[1]} ({error})"
                ) from error
        time.sleep(0.2)


def is_main() -> bool:
    """Whether this process writes what is written once: process 0 does."""
    return jax.process_index() == 0


def main_first(action: Callable[[], _Result]) -> _Result:
    """What `action` returns in this process; process 0 goes first, the others after it.

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
    """What process 0 says, in all processes."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.int32(value)))


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[int], bool]]:
    """While it lasts, SIGTERM asks a run to stop and does not end the process.

    Yields:
      step -> whether to stop after that step, the same in all processes; to be asked at each.
    """
    if jax.process_count() > 1:  # JAX catches the signal and agrees with the others on a step
        yield multihost_utils.reached_preemption_sync_point
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False  # Python has no signals here
        return
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    try:
        yield lambda step: asked.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """All devices in one row, axis `data`; each process's stand together, as its data do."""
    devices = devices or sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def check_batch(mesh: Mesh, batch_size: int, accumulate: int) -> None:
    """Raises an InputError when a batch cannot be split evenly over the mesh, part by part."""
    if batch_size % (mesh.size * accumulate):
        parts = f", times the {accumulate} of train.accumulate" if accumulate > 1 else ""
        raise errors.InputError(
            f"train.batch_size {batch_size} is not a multiple of the {mesh.size} devices{parts}"
        )


def free_bytes(mesh: Mesh) -> int:
    """Memory of each device of this process that nothing uses yet, about."""
    own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    if stats := own[0].memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(own)


def peak_flops(device_kind: str) -> float:
    """Dense bfloat16 FLOPs a second of a kind of device, by its maker; 0 for one not listed."""
    return next((peak * 1e12 for name, peak in _PEAK.items() if name in device_kind), 0.0)


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Split along an axis."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def state_shardings(mesh: Mesh, state: TrainState, *, parameters: bool = False) -> TrainState:
    """Where each part of the state lives.

    Memories are split by rows where the devices divide them: they are large, and a step
    gathers the (small) embeddings instead. All else is replicated.

    Args:
      mesh: the devices.
      state: arrays or shapes.
      parameters: whether parameters, their average and the optimizer's state are split too, each
        array along its longest axis that the devices divide; a step gathers what it needs.
    """

    def memory_sharding(leaf):
        splits = leaf.ndim >= 2 and leaf.shape[0] % mesh.size == 0
        return split(mesh) if splits else replicated(mesh)

    def parameter_sharding(leaf):
        fitting = [size if size % mesh.size == 0 else 0 for size in leaf.shape]
        if leaf.size < _SMALL or not any(fitting):
            return replicated(mesh)
        return split(mesh, axis=fitting.index(max(fitting)))

    shardings = jax.tree.map(lambda leaf: replicated(mesh), state)
    shardings = shardings.replace(memory=jax.tree.map(memory_sharding, state.memory))
    if parameters:
        names = ("params", "ema", "opt_state")
        shardings = shardings.replace(
            **{name: jax.tree.map(parameter_sharding, getattr(state, name)) for name in names}
        )
    return shardings


def part() -> tuple[int, int]:
    """(i, n): this is process i of n, and feeds that part of each batch."""
    return jax.process_index(), jax.process_count()


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """What this process feeds of a batch, onto the devices, split by example."""
    return {
        name: jax.make_array_from_process_local_data(split(mesh), value)
        for name, value in batch.items()
    }


def put(sharding: NamedSharding, tree: _Result) -> _Result:
    """Arrays that every process holds whole, onto the devices."""

    def array(value):
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(array, tree)
