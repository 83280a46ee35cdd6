"""Arrays of checkpoints, read at once or when they are used."""

import math
import pathlib
from typing import Any

import jax
import numpy as np

from rrd_jax import errors, networks
from rrd_jax.checkpoints import storage
from rrd_jax.checkpoints.storage import ocp

# Bytes that are read at once: small networks whole, large ones in parts.
_AT_ONCE = 2**28


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

    Successive leaves are read together. The last ones that were read stay in memory, about 256 MB
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

    def read_part(start: int) -> list[np.ndarray]:
        if start not in last:
            last.clear()
            stop = next((part for part in parts if part > start), len(leaves))
            selected = [
                leaf if start <= i < stop else ocp.PLACEHOLDER for i, leaf in enumerate(leaves)
            ]
            try:
                with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                    tree = read(checkpointer, folder, structure.unflatten(selected))
            # Orbax raises many types of errors for damaged files.
            except Exception as error:
                raise errors.InputError(
                    f"{folder} cannot be read ({storage.first_line(error)}); restore the"
                    " checkpoint, or select another one with RUN@STEP"
                ) from error
            last[start] = jax.tree.leaves(tree)[start:stop]
        return last[start]

    def stored(i: int) -> networks.Stored:
        start = max(part for part in parts if part <= i)
        return networks.Stored(
            tuple(leaves[i].shape), np.dtype(leaves[i].dtype), lambda: read_part(start)[i - start]
        )

    return structure.unflatten([stored(i) for i in range(len(leaves))])
