"""A checkpoint of any tree of arrays."""

import pathlib
from typing import Any

from rrd_jax.checkpoints import digests, storage
from rrd_jax.checkpoints.storage import ocp


def exists(folder: pathlib.Path) -> bool:
    """Whether `save_arrays` has written there."""
    return bool(storage.steps(folder))


def save_arrays(folder: pathlib.Path, arrays: Any, meta: dict[str, Any]) -> None:
    """Writes arrays, however they are split, for `load_arrays` to read.

    Args:
      folder: to write to; nothing is in it.
      arrays: a tree.
      meta: JSON beside it.

    Raises:
      InputError: the folder cannot be written.
    """
    storage.write(folder, arrays, meta, {"arrays": digests.digest(arrays)})


def load_arrays(folder: pathlib.Path, like: Any) -> Any:
    """The arrays of `save_arrays`, placed like `like`; None, and a warning, if they are damaged."""
    try:
        with ocp.CheckpointManager(folder) as manager:
            arrays, _, stored = storage.read(manager, 0, like)
        digests.verify({"arrays": digests.digest(arrays)}, stored)
    except Exception as error:  # whatever Orbax runs into in damaged files
        storage.warn_damaged(folder, 0, error)
        return None
    return arrays
