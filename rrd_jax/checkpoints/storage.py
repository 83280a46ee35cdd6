"""A checkpoint on disk: arrays as Orbax writes them, and sealed JSON beside them.

FOLDER/STEP/state           the arrays
FOLDER/STEP/meta/metadata   the JSON, see `sealed`
"""

import os
import pathlib
import re
from typing import Any

from rrd_jax import deferred, errors, networks
from rrd_jax.checkpoints import quiet, sealed

quiet.silence()  # whoever reads or writes
ocp = deferred.Library("orbax.checkpoint")


def steps(folder: pathlib.Path) -> list[int]:
    """The steps that a folder holds checkpoints of, in ascending order."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def save_arguments(arrays: Any, meta: dict[str, Any], digests: dict[str, str]) -> Any:
    """The `Composite` that Orbax's `CheckpointManager.save` is given."""
    return ocp.args.Composite(
        state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(sealed.seal(meta, digests))
    )


def write(folder: pathlib.Path, arrays: Any, meta: dict[str, Any], digests: dict[str, str]) -> None:
    """Writes a checkpoint of step 0; raises a DiskError if the folder cannot be written."""
    check_folder(folder)
    try:
        with ocp.CheckpointManager(folder) as manager:
            manager.save(0, args=save_arguments(arrays, meta, digests))
    except (OSError, ValueError) as error:
        raise errors.DiskError(f"{folder} cannot be written ({reason(error)})") from error


def read(manager: Any, step: int, like: Any) -> tuple[Any, dict[str, Any], dict[str, str]]:
    """The arrays of a step of a `CheckpointManager`, as `like`, its JSON, and digests to verify."""
    restored = manager.restore(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore()),
    )
    return restored.state, *sealed.unseal(restored.meta)


def read_json(folder: pathlib.Path, step: int) -> tuple[dict[str, Any], dict[str, str]]:
    """The JSON of a step and the digests in it, without the arrays."""
    path = folder / str(step) / "meta" / "metadata"
    try:
        return sealed.unseal(errors.read_json(path))
    except RecursionError as error:
        raise ValueError(f"{path} is no JSON of ours") from error


def set_notes_aside(folder: pathlib.Path) -> None:
    """Renames Orbax's notes on checkpoints where they are no JSON: it can do without, not with."""
    for step in steps(folder):
        path = folder / str(step) / "_CHECKPOINT_METADATA"
        try:
            readable = isinstance(errors.read_json(path), dict)
        except ValueError:
            readable = False
        except OSError:
            continue
        if not readable:
            path.rename(path.with_suffix(".damaged"))


def difference(folder: pathlib.Path, step: int, like: Any) -> str:
    """The first array of a step that a state has not, or has in another shape.

    Args:
      folder: of checkpoints.
      step: one of them.
      like: the state.

    Returns:
      "" where there is none, or the step cannot be read.
    """
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            tree = checkpointer.metadata(folder / str(step) / "state").item_metadata.tree
    except Exception:  # whatever Orbax runs into in damaged files
        return ""
    there, here = map(networks.named_shapes, (tree, like))
    for name in sorted(there | here):
        was, is_now = there.get(name, "absent"), here.get(name, "absent")
        if was != is_now and name.startswith(("params/", "opt_state/")):
            return f"{name} is {was} there and {is_now} here"
    return ""


def warn_damaged(folder: pathlib.Path, step: int, error: Exception) -> None:
    """Prints that a checkpoint is passed over, and why."""
    print(f"warning: checkpoint {folder}/{step} is damaged ({first_line(error)})")


def check_folder(folder: pathlib.Path) -> None:
    """Raises a DiskError if a file is in the way of a folder."""
    if folder.exists() and not folder.is_dir():
        raise errors.DiskError(
            f"{folder} is a file, but checkpoints are kept in a folder of that name; move it away"
        )


def reason(error: Exception) -> str:
    """Why a disk took nothing, as the operating system says it where it was asked.

    Orbax buries the system's error in the text of its own.
    """
    if buried := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(buried[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return first_line(error)


def first_line(error: Exception) -> str:
    """The first line of an error's message: Orbax's are long."""
    return str(error).strip().split("\n")[0][:200]
