"""The devices of a run: one mesh of all of them, and what is put where.

Batch and memory are split over the mesh; every device holds a copy of the rest.
"""

import functools
import importlib.util
import os
import pathlib
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import numpy as np
from jax.extend.backend import clear_backends
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rrd_jax import errors
from rrd_jax.parallel.capacity import host_bytes
from rrd_jax.terminal import cli, console
from rrd_jax.training.state import TrainState

cli.quiet_libtpu()  # JAX, imported, has looked for a chip; devices are asked for through here
AXIS = "data"
_Tree = TypeVar("_Tree")
_Arguments, _Result = ParamSpec("_Arguments"), TypeVar("_Result")
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
_CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
_SMALL = 1024  # scalars; an array that has fewer is not worth splitting


def check_platform() -> None:
    """Starts JAX's devices; says where they are not what the machine seems to be meant for.

    Raises:
      UnavailableError: the platform that was asked for is not there.
      InputError: JAX is to compute in 64 bits.
    """
    if jax.config.jax_enable_x64:
        raise errors.InputError(
            "JAX_ENABLE_X64 is set, but runs are made of 32-bit numbers: unset it, or call"
            " jax.config.update('jax_enable_x64', False)"
        )
    asked = jax.config.jax_platforms
    try:
        platform = jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # the latter where it sees no GPU
        reason = str(error).split(" (set JAX_PLATFORMS")[0].strip().split("\n")[0]
        raise errors.UnavailableError(
            f"JAX_PLATFORMS={asked}, but JAX cannot use that here"
            f"{f' ({reason[:200]})' if reason else ''}; there is {_platforms_there()}: unset"
            " JAX_PLATFORMS, or set JAX_PLATFORMS=cpu; an NVIDIA GPU needs pip install"
            " 'rrd_jax[cuda13]' and a driver, a TPU 'rrd_jax[tpu]'"
        ) from error
    if platform == "cpu" and not asked and any(map(importlib.util.find_spec, _CUDA_PLUGINS)):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        console.warn(
            "JAX's plugin for NVIDIA GPUs is installed, but it finds none"
            f"{'' if visible is None else f' (CUDA_VISIBLE_DEVICES={visible})'}: this runs on the"
            " CPU; set JAX_PLATFORMS=cuda to be refused instead, cpu to be told nothing"
        )


def _platforms_there() -> str:
    """What JAX finds if nothing is asked for."""
    asked = jax.config.jax_platforms
    jax.config.update("jax_platforms", "")
    try:
        return " and ".join(sorted({"cpu", jax.default_backend()}))
    except (RuntimeError, AssertionError):
        return "cpu"
    finally:  # a second try is to fail as the first
        clear_backends()
        jax.config.update("jax_platforms", asked)


def check_jaxlib() -> None:
    """Raises an InputError for a jaxlib that computes wrong values on the devices there are."""
    if jax.lib.__version__ == "0.10.2" and jax.default_backend() == "cpu":
        raise errors.InputError(
            "jaxlib 0.10.2 computes wrong values on a CPU (issue 39103 of jax); install another:"
            " pip install 'jax!=0.10.2'"
        )


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """1-D mesh of all devices, grouped by process; its axis is `data`."""
    devices = devices or sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def with_mesh(mesh: Mesh, function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """The function, which finds the mesh in `jax.sharding.get_abstract_mesh()` while it is traced.

    A loss is a function of arrays alone; one that walks a split memory asks there for its devices.
    """

    @functools.wraps(function)
    def traced(*args, **kwargs):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return traced


def check_batch(mesh: Mesh, batch_size: int, accumulate: int) -> None:
    """Raises an InputError if the parts of a batch cannot be split evenly over the mesh."""
    if batch_size % (mesh.size * accumulate):
        times = f", times the {accumulate} of train.accumulate" if accumulate > 1 else ""
        raise errors.InputError(
            f"train.batch_size {batch_size} is not a multiple of the {mesh.size} devices{times}"
        )


def free_bytes(mesh: Mesh) -> int:
    """The free memory of each device of this process, about; of a CPU, its share of the host's."""
    local = _here(mesh)
    if stats := local[0].memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(local)


def device_bytes(mesh: Mesh) -> int:
    """The memory of each device of this process, in use or not; of a CPU, a share of the host's."""
    local = _here(mesh)
    if stats := local[0].memory_stats():
        return stats["bytes_limit"]
    return host_bytes() // len(local)


def _here(mesh: Mesh) -> list[jax.Device]:
    """The devices of this process."""
    return [device for device in mesh.devices.flat if device.process_index == jax.process_index()]


def peak_flops(device_kind: str) -> float:
    """Dense bfloat16 FLOPs a second of a kind of device, as its maker states; 0 if not listed."""
    return next((peak * 1e12 for name, peak in _PEAK.items() if name in device_kind), 0.0)


def multiplies_half() -> bool:
    """Whether the processor has instructions for bfloat16; True where nobody knows."""
    path = pathlib.Path("/proc/cpuinfo")
    words = path.read_text().split() if path.exists() else []
    return "flags" not in words or not {"amx_bf16", "avx512_bf16"}.isdisjoint(words)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays that every device holds a copy of."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The sharding of arrays that are split along an axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def state_shardings(mesh: Mesh, state: TrainState, *, parameters: bool = False) -> TrainState:
    """The sharding of each array of the state.

    Memories are split by rows where the devices divide them: they are large, and a step
    gathers the (small) embeddings instead. Every device holds a copy of the rest.

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


def put_batch(mesh: Mesh, batch: _Tree) -> _Tree:
    """Puts this process's share of a batch, a tree of arrays, onto the devices, by example."""
    put_one = functools.partial(jax.make_array_from_process_local_data, split(mesh))
    return jax.tree.map(put_one, batch)


def put(sharding: NamedSharding, tree: _Tree) -> _Tree:
    """Puts arrays that every process holds whole onto the devices."""

    def array(value):
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(array, tree)
