"""Checkpoints of arbitrary trees of arrays."""

import pathlib
import shutil
from typing import Any

from rrd_jax import buckets, errors
from rrd_jax.checkpoints import digests, staging, storage
from rrd_jax.checkpoints.storage import ocp


def exists(folder: pathlib.Path) -> bool:
    """Returns True if `save_arrays` has written to a folder."""
    return bool(storage.steps(folder))


def save_arrays(folder: pathlib.Path, arrays: Any, meta: dict[str, Any]) -> None:
    """Writes arrays of any sharding, to be read by `load_arrays`.

    Args:
      folder: an empty or missing folder.
      arrays: a tree of arrays.
      meta: JSON to store with the arrays.

    Raises:
      InputError: the folder cannot be written.
    """
    write = staging.write if staging.is_staged(folder) else storage.write
    write(folder, arrays, meta, {"arrays": digests.digest(arrays)})


def delete(folder: pathlib.Path) -> None:
    """Deletes a folder that `save_arrays` has written, if it exists."""
    if buckets.is_bucket(folder):
        buckets.delete(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def load_arrays(folder: pathlib.Path, like: Any) -> Any:
    """Reads arrays that `save_arrays` wrote; warns and returns None if they are damaged.

    Args:
      folder: the folder that `save_arrays` wrote.
      like: a tree of arrays or shapes with the shardings of the result.
    """
    try:
        with ocp.CheckpointManager(staging.readable(folder, 0)) as manager:
            arrays, _, stored = storage.read(manager, 0, like)
        digests.verify({"arrays": digests.digest(arrays)}, stored)
    except errors.BucketError:
        raise
    # Orbax raises many types of errors for damaged files.
    except Exception as error:
        storage.warn_damaged(folder, 0, error)
        return None
    return arrays
