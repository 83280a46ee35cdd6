"""The mesh, and who holds what: batch and memory split over it, the rest on every device."""

import os
import pathlib

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rrd_jax import errors
from rrd_jax.state import TrainState

AXIS = "data"


def enable_compilation_cache() -> None:
    """Keeps compiled programs in ~/.cache/rrd_jax, unless JAX_COMPILATION_CACHE_DIR says where."""
    if not jax.config.jax_compilation_cache_dir:
        cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(cache) / "rrd_jax"))


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """All devices in one row, axis `data`."""
    devices = devices or jax.devices()
    return jax.make_mesh((len(devices),), (AXIS,), (AxisType.Auto,), devices=devices)


def check_batch(mesh: Mesh, batch_size: int) -> None:
    """Raises an InputError when a batch cannot be split evenly over the mesh."""
    if batch_size % mesh.size:
        raise errors.InputError(
            f"train.batch_size {batch_size} is not a multiple of the {mesh.size} devices"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Split along an axis."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def state_shardings(mesh: Mesh, state: TrainState) -> TrainState:
    """Where each part of the state lives.

    Memories are split by rows where the devices divide them: they are large, and a step
    gathers the (small) embeddings instead. All else is replicated.
    """

    def memory_sharding(leaf):
        splits = leaf.ndim >= 2 and leaf.shape[0] % mesh.size == 0
        return split(mesh) if splits else replicated(mesh)

    shardings = jax.tree.map(lambda leaf: replicated(mesh), state)
    return shardings.replace(memory=jax.tree.map(memory_sharding, state.memory))


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """A host's batch onto the devices, split by example."""
    return {
        name: jax.make_array_from_process_local_data(split(mesh), value)
        for name, value in batch.items()
    }
