"""A checkpoint on disk: arrays written by Orbax, and JSON with digests.

FOLDER/STEP/state           the arrays
FOLDER/STEP/meta/metadata   the JSON, see `digests.seal`
"""

import functools
import logging
import os
import pathlib
import re
import sys
from typing import Any

from absl import logging as absl_logging

from rrd_jax import deferred, errors, networks
from rrd_jax.checkpoints import digests as digesting

ocp = deferred.Library("orbax.checkpoint")


@functools.cache  # Once per process: Orbax's threads may log after a run has ended.
def quiet_orbax() -> None:
    """Filters out what Orbax and TensorStore log about failed saves, which also raise.

    Their log has hundreds of lines for each failure.
    """
    for logger in (absl_logging.get_absl_logger(), logging.getLogger("asyncio")):
        logger.addFilter(_is_news)
    previous = sys.unraisablehook

    def hook(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    sys.unraisablehook = hook


def _is_news(record: logging.LogRecord) -> bool:
    """Returns False for an error of Orbax or TensorStore."""
    if record.levelno < logging.WARNING:
        return True
    trace = record.exc_info[2] if record.exc_info else None
    while trace and "orbax" not in trace.tb_frame.f_code.co_filename:
        trace = trace.tb_next
    return not (trace or "orbax" in record.pathname or "tensorstore" in record.getMessage())


quiet_orbax()


def steps(folder: pathlib.Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, in ascending order."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def save_arguments(arrays: Any, meta: dict[str, Any], digests: dict[str, str]) -> Any:
    """Returns the arguments of Orbax's `CheckpointManager.save`."""
    return ocp.args.Composite(
        state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(digesting.seal(meta, digests))
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
    """Reads the arrays of a step, placed like `like`, its meta, and the digests to verify."""
    restored = manager.restore(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore()),
    )
    return restored.state, *digesting.unseal(restored.meta)


def read_json(folder: pathlib.Path, step: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Reads the meta of a step and its digests, without the arrays."""
    path = folder / str(step) / "meta" / "metadata"
    try:
        return digesting.unseal(errors.read_json(path))
    except RecursionError as error:
        raise ValueError(f"{path} is damaged") from error


def rename_damaged_metadata(folder: pathlib.Path) -> None:
    """Renames damaged metadata of Orbax, which ignores missing files but fails on damaged ones."""
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
    """Describes the first array whose shape differs between a checkpoint and a state.

    Args:
      folder: of checkpoints.
      step: of the checkpoint.
      like: the state.

    Returns:
      "" if there is no difference, or the checkpoint cannot be read.
    """
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            tree = checkpointer.metadata(folder / str(step) / "state").item_metadata.tree
    except Exception:  # whatever Orbax runs into in damaged files
        return ""
    stored, current = map(networks.named_shapes, (tree, like))
    for name in sorted(stored | current):
        before, now = stored.get(name, "absent"), current.get(name, "absent")
        if before != now and name.startswith(("params/", "opt_state/")):
            return f"{name} is {before} there and {now} here"
    return ""


def warn_damaged(folder: pathlib.Path, step: int, error: Exception) -> None:
    """Warns that a damaged checkpoint is skipped."""
    print(f"warning: checkpoint {folder}/{step} is damaged ({first_line(error)})")


def check_folder(folder: pathlib.Path) -> None:
    """Raises a DiskError if a file has the folder's name."""
    if folder.exists() and not folder.is_dir():
        raise errors.DiskError(
            f"{folder} is a file, but checkpoints are kept in a folder of that name; move it away"
        )


def reason(error: Exception) -> str:
    """Returns the operating system's message of a failed write.

    Orbax hides the system's error in the text of its own.
    """
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return first_line(error)


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message: Orbax's are long."""
    return str(error).strip().split("\n")[0][:200]
