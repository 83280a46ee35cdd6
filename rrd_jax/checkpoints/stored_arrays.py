"""Arrays of checkpoints, read at once or when they are used."""

import math
import pathlib
import threading
from typing import Any

import jax
import numpy as np

from rrd_jax import buckets, deferred, errors, networks
from rrd_jax.checkpoints import storage
from rrd_jax.checkpoints.storage import ocp

ts: Any = deferred.Library("tensorstore")
# Bytes of the index of a checkpoint's arrays that stay in memory.
_INDEX = 2**26
# Bytes that are read at once: small networks whole, large ones in parts.
_AT_ONCE = 2**26


def describe(checkpointer: Any, folder: pathlib.Path) -> Any:
    """Returns the tree of Orbax's metadata of a stored state; raises a ValueError without one."""
    metadata = checkpointer.metadata(folder).item_metadata
    if metadata is None:
        raise ValueError(f"the index of its arrays, in {folder}, is missing or damaged")
    return metadata.tree


def read(checkpointer: Any, folder: pathlib.Path, needed: Any) -> Any:
    """Reads the needed leaves of a stored state as NumPy arrays.

    Args:
      checkpointer: Orbax's checkpointer.
      folder: folder of the state.
      needed: a part of the tree of Orbax's metadata.
    """
    restore_args = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), needed)
    return checkpointer.restore(
        folder,
        args=ocp.args.PyTreeRestore(needed, restore_args=restore_args, partial_restore=True),
    )


def open_arrays(folder: pathlib.Path, needed: Any) -> Any:
    """Returns the needed leaves of a stored state as `networks.Stored`.

    Successive leaves are read together. The last ones that were read stay in memory, about 64 MB
    or a single larger array.

    Args:
      folder: folder of the state.
      needed: a part of the tree of Orbax's metadata.
    """
    leaves, structure = jax.tree.flatten(needed)
    sizes = [math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves]
    parts, total = [0], 0
    for i, size in enumerate(sizes):
        if total and total + size > _AT_ONCE:
            parts.append(i)
            total = 0
        total += size
    last: dict[int, list[np.ndarray]] = {}
    lock = threading.Lock()
    # Orbax would read the whole file for each part, and keep its memory.
    context = ts.Context({"cache_pool": {"total_bytes_limit": _INDEX}})

    def store(leaf: Any) -> Any:
        kvstore = {"driver": "ocdbt", "base": _base(folder), "path": f"{leaf.name}/"}
        spec = {"driver": "zarr", "kvstore": kvstore}
        return ts.open(spec, context=context, open=True, read=True)

    def read_part(start: int) -> list[np.ndarray]:
        # Digests are computed in several threads, which would replace each other's part.
        with lock:
            if start not in last:
                last.clear()
                last[start] = load(start)
            return last[start]

    def load(start: int) -> list[np.ndarray]:
        stop = next((part for part in parts if part > start), len(leaves))
        try:
            opened = [store(leaf) for leaf in leaves[start:stop]]
            reads = [future.result().read() for future in opened]
            return [read.result() for read in reads]
        # TensorStore raises ValueErrors for damaged files.
        except (OSError, ValueError) as error:
            raise errors.InputError(
                f"{folder} cannot be read ({storage.first_line(error)}); restore the"
                " checkpoint, or select another one with RUN@STEP"
            ) from error

    def stored(i: int) -> networks.Stored:
        start = max(part for part in parts if part <= i)
        return networks.Stored(
            tuple(leaves[i].shape), np.dtype(leaves[i].dtype), lambda: read_part(start)[i - start]
        )

    return structure.unflatten([stored(i) for i in range(len(leaves))])


def _base(folder: Any) -> dict[str, str]:
    """Returns TensorStore's description of a folder."""
    if location := buckets.parse(str(folder)):
        return {"driver": "gcs", "bucket": location.bucket, "path": f"{location.key}/"}
    return {"driver": "file", "path": f"{folder}/"}
