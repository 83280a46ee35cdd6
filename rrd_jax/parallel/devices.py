"""The devices of a run: the mesh and the sharding of arrays.

Batches and memories are split over the mesh; other arrays are replicated.
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
from rrd_jax.terminal import cli, console, runtime_errors
from rrd_jax.training.state import TrainState

# JAX has searched for a TPU by now, and the devices have not been started yet.
cli.quiet_libtpu()
AXIS = "data"
_Tree = TypeVar("_Tree")
_Arguments, _Result = ParamSpec("_Arguments"), TypeVar("_Result")
# Dense bfloat16 TFLOP/s by a part of JAX's device kind; the first match is used. A device is a core
# for TPU v3 and v2.
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
    "TPU v3": 61.5,
    "TPU v2": 22.5,
}
_CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
# Arrays with fewer elements are not split.
_SMALL = 1024


def check_platform() -> None:
    """Starts JAX's devices; warns about an NVIDIA GPU plugin that finds no GPU.

    Raises:
      UnavailableError: the platform of JAX_PLATFORMS is not available.
      InputError: JAX has a setting with which no run can be compiled or placed on the devices.
    """
    runtime_errors.check_settings()
    requested = jax.config.jax_platforms
    try:
        platform = jax.default_backend()
    # JAX raises an AssertionError if there is no GPU.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split(" (set JAX_PLATFORMS")[0].strip().split("\n")[0]
        raise errors.UnavailableError(
            f"JAX_PLATFORMS={requested}, but JAX cannot use this platform"
            f"{f' ({reason[:200]})' if reason else ''}; available: {_available_platforms()}; unset"
            " JAX_PLATFORMS, or set JAX_PLATFORMS=cpu; an NVIDIA GPU needs a driver and pip install"
            " 'rrd_jax[cuda13]', a TPU needs pip install 'rrd_jax[tpu]'"
        ) from error
    if platform == "cpu" and not requested and any(map(importlib.util.find_spec, _CUDA_PLUGINS)):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        console.warn(
            "JAX's plugin for NVIDIA GPUs is installed but finds no GPU"
            f"{'' if visible is None else f' (CUDA_VISIBLE_DEVICES={visible})'}; running on the"
            " CPU; set JAX_PLATFORMS=cuda to stop with an error instead, or JAX_PLATFORMS=cpu to"
            " hide this warning"
        )


def _available_platforms() -> str:
    """Returns the platforms that JAX finds without JAX_PLATFORMS."""
    requested = jax.config.jax_platforms
    jax.config.update("jax_platforms", "")
    try:
        return " and ".join(sorted({"cpu", jax.default_backend()}))
    except (RuntimeError, AssertionError):
        return "cpu"
    # A second attempt must fail with the same error.
    finally:
        clear_backends()
        jax.config.update("jax_platforms", requested)


def check_jaxlib() -> None:
    """Raises an InputError for a jaxlib that computes wrong values on the current platform."""
    if jax.lib.__version__ == "0.10.2" and jax.default_backend() == "cpu":
        raise errors.InputError(
            "jaxlib 0.10.2 computes wrong values on a CPU (JAX issue 39103); install another"
            " version: pip install 'jax!=0.10.2'"
        )


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """Returns a 1-D mesh with the axis `data`.

    Args:
      devices: devices of the mesh; None for all devices, grouped by process.
    """
    devices = devices or sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def with_mesh(mesh: Mesh, function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Returns the function, with `jax.sharding.get_abstract_mesh()` set while it is traced.

    The arguments of a loss do not include the mesh, which a loss with a split memory needs.
    """

    @functools.wraps(function)
    def traced(*args, **kwargs):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return traced


def check_batch(mesh: Mesh, batch_size: int, accumulate: int) -> None:
    """Raises a FieldError if the parts of a batch cannot be split evenly over the mesh."""
    if batch_size % (mesh.size * accumulate):
        parts = f"{mesh.size} devices"
        parts += f" times train.accumulate={accumulate}" if accumulate > 1 else ""
        raise errors.FieldError(
            f"train.batch_size={batch_size} is not a multiple of the {parts}; set it to a"
            f" multiple of {mesh.size * accumulate}"
        )


def peak_flops(device_kind: str) -> float:
    """Returns a device's dense bfloat16 FLOP/s from its data sheet; 0 if unknown."""
    return next((peak * 1e12 for name, peak in _PEAK.items() if name in device_kind), 0.0)


def has_fast_bfloat16() -> bool:
    """Returns True if the CPU has bfloat16 instructions, or if its instructions are unknown."""
    path = pathlib.Path("/proc/cpuinfo")
    words = path.read_text().split() if path.exists() else []
    return "flags" not in words or not {"amx_bf16", "avx512_bf16"}.isdisjoint(words)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of replicated arrays."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding of arrays that are split along an axis."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def state_shardings(mesh: Mesh, state: TrainState, *, parameters: bool = False) -> TrainState:
    """Returns the sharding of each array of the state.

    Memories are split by rows if the number of rows is a multiple of the number of devices, because
    memories are large. A step gathers the small embeddings. Other arrays are replicated.

    Args:
      mesh: the devices.
      state: arrays or shapes.
      parameters: True to split parameters, their average and the optimizer's state too. Each array
        is split along its longest axis whose size is a multiple of the number of devices.
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
    """Puts this process's share of a batch on the devices, split by example.

    Args:
      mesh: the devices.
      batch: a tree of arrays.
    """
    put_one = functools.partial(jax.make_array_from_process_local_data, split(mesh))
    return jax.tree.map(put_one, batch)


def put(sharding: NamedSharding, tree: _Tree) -> _Tree:
    """Puts arrays that are the same in every process on the devices."""

    def array(value):
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(array, tree)
