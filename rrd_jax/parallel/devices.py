"""The devices of a run: the mesh, and the sharding of arrays.

Batch and memory are split over the mesh; other arrays are replicated.
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
from rrd_jax.terminal import cli, console
from rrd_jax.training.state import TrainState

# The import of JAX has looked for a TPU; devices are started through this module.
cli.quiet_libtpu()
AXIS = "data"
_Tree = TypeVar("_Tree")
_Arguments, _Result = ParamSpec("_Arguments"), TypeVar("_Result")
# Dense bfloat16 TFLOP/s by part of JAX's device kind; the first match counts.
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
    "TPU v3": 61.5,  # per core, which is a device in JAX
    "TPU v2": 22.5,
}
_CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
_SMALL = 1024  # elements; smaller arrays are not split


def check_platform() -> None:
    """Starts JAX's devices; warns about an unused NVIDIA GPU.

    Raises:
      UnavailableError: the platform of JAX_PLATFORMS is not available.
      InputError: JAX computes in 64 bits.
    """
    if jax.config.jax_enable_x64:
        raise errors.InputError(
            "JAX_ENABLE_X64 is set, but runs are made of 32-bit numbers: unset it, or call"
            " jax.config.update('jax_enable_x64', False)"
        )
    asked = jax.config.jax_platforms
    try:
        platform = jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # AssertionError if there is no GPU.
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
    """Returns the platforms that JAX finds without JAX_PLATFORMS."""
    asked = jax.config.jax_platforms
    jax.config.update("jax_platforms", "")
    try:
        return " and ".join(sorted({"cpu", jax.default_backend()}))
    except (RuntimeError, AssertionError):
        return "cpu"
    finally:  # Restores the state before, so that a second try fails in the same way.
        clear_backends()
        jax.config.update("jax_platforms", asked)


def check_jaxlib() -> None:
    """Raises an InputError for a jaxlib that computes wrong values on the current platform."""
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


def peak_flops(device_kind: str) -> float:
    """Returns a device's dense bfloat16 FLOP/s by its manufacturer; 0 if unknown."""
    return next((peak * 1e12 for name, peak in _PEAK.items() if name in device_kind), 0.0)


def multiplies_half() -> bool:
    """Returns True if the CPU has bfloat16 instructions, or if that is unknown."""
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

    Memories are split by rows if the number of devices divides them: they are large, and a step
    gathers the small embeddings instead. Other arrays are replicated.

    Args:
      mesh: the devices.
      state: arrays or shapes.
      parameters: whether to split parameters, their average and the optimizer's state too, each
        array along its longest axis that the number of devices divides.
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
    """Puts this process's share of a batch, a tree of arrays, on the devices, split by example."""
    put_one = functools.partial(jax.make_array_from_process_local_data, split(mesh))
    return jax.tree.map(put_one, batch)


def put(sharding: NamedSharding, tree: _Tree) -> _Tree:
    """Puts arrays that are the same in every process on the devices."""

    def array(value):
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(array, tree)
