"""Checkpoints on disk: arrays that Orbax writes, and JSON with digests.

FOLDER/STEP/state           arrays
FOLDER/STEP/meta/metadata   JSON, see `digests.seal`
"""

import functools
import logging
import os
import pathlib
import re
import sys
from typing import Any

from absl import flags
from absl import logging as absl_logging

from rrd_jax import buckets, deferred, errors, networks, user_paths
from rrd_jax.checkpoints import digests as digesting
from rrd_jax.terminal import runtime_errors

# The file that marks a complete checkpoint in a bucket; Orbax writes it to gs://.
MARKER = "commit_success.txt"

_STATUS = re.compile("[A-Z_]+: ")

_BARRIER_FLAG = "experimental_orbax_use_distributed_barrier"


class _Orbax(deferred.Library):
    """Orbax, whose processes wait for each other through JAX's coordination service.

    By default they compare numbers that Gloo gathers, which fails at random on busy CPUs.
    """

    def __getattr__(self, attribute: str) -> Any:
        value = super().__getattr__(attribute)
        if _BARRIER_FLAG in flags.FLAGS:
            flags.FLAGS.set_default(_BARRIER_FLAG, True)
        return value


ocp: Any = _Orbax("orbax.checkpoint")


# The filters stay for the whole process, because Orbax's threads may log after a run has ended.
@functools.cache
def quiet_orbax() -> None:
    """Hides the log messages of Orbax and TensorStore about failed saves, which also raise errors.

    The messages have hundreds of lines per failure.
    """
    for logger in (absl_logging.get_absl_logger(), logging.getLogger("asyncio")):
        logger.addFilter(_is_relevant)
    previous = sys.unraisablehook

    def hook(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    sys.unraisablehook = hook


def _is_relevant(record: logging.LogRecord) -> bool:
    """Returns False for warnings and errors of Orbax and TensorStore."""
    if record.levelno < logging.WARNING:
        return True
    _, error, trace = record.exc_info or (None, None, None)
    # The errors of TensorStore's futures have no frames and name a status, not the library.
    if isinstance(error, ValueError) and _STATUS.match(str(error)):
        return False
    while trace and "orbax" not in trace.tb_frame.f_code.co_filename:
        trace = trace.tb_next
    return not (trace or "orbax" in record.pathname or "tensorstore" in record.getMessage())


quiet_orbax()


def steps(folder: pathlib.Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a folder, in ascending order."""
    if buckets.is_bucket(folder):
        # Folders cannot be renamed there, so that a marker tells which are complete.
        names = (path.parent.name for path in folder.glob(f"*/{MARKER}"))
        return sorted(int(name) for name in names if name.isdecimal())
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def save_arguments(arrays: Any, meta: dict[str, Any], digests: dict[str, str]) -> Any:
    """Returns the arguments of Orbax's `CheckpointManager.save`."""
    return ocp.args.Composite(
        state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(digesting.seal(meta, digests))
    )


def write(folder: pathlib.Path, arrays: Any, meta: dict[str, Any], digests: dict[str, str]) -> None:
    """Writes a checkpoint with step 0; raises a DiskError if the folder cannot be written."""
    check_folder(folder)
    try:
        with ocp.CheckpointManager(folder) as manager:
            manager.save(0, args=save_arguments(arrays, meta, digests))
    except (OSError, ValueError) as error:
        raise errors.DiskError(
            f"{folder} cannot be written ({reason(error)}); fix the cause, or choose another folder"
        ) from error


def read(manager: Any, step: int, like: Any) -> tuple[Any, dict[str, Any], dict[str, str]]:
    """Reads the arrays, the meta and the stored digests of a step.

    Args:
      manager: Orbax's `CheckpointManager`.
      step: step of the checkpoint.
      like: a tree of arrays or shapes with the shardings of the result.
    """
    restored = manager.restore(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore()),
    )
    return restored.state, *digesting.unseal(restored.meta)


def read_json(folder: pathlib.Path, step: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Reads the meta and the digests of a step, without the arrays."""
    path = folder / str(step) / "meta" / "metadata"
    try:
        return digesting.unseal(user_paths.read_json(path))
    except RecursionError as error:
        raise ValueError(f"{path} is damaged") from error


def rename_damaged_metadata(folder: pathlib.Path) -> None:
    """Renames damaged metadata files, because Orbax ignores missing files but fails on others."""
    # In a bucket, a checkpoint with damaged metadata is found when it is read.
    for step in steps(folder) if not buckets.is_bucket(folder) else ():
        path = folder / str(step) / "_CHECKPOINT_METADATA"
        try:
            readable = isinstance(user_paths.read_json(path), dict)
        except ValueError:
            readable = False
        except OSError:
            continue
        if not readable:
            path.rename(path.with_suffix(".damaged"))


def difference(folder: pathlib.Path, step: int, like: Any) -> str:
    """Describes the first array whose shape differs between a checkpoint and a state.

    Args:
      folder: folder of the checkpoints.
      step: step of the checkpoint.
      like: the state.

    Returns:
      "" without differences, or if the checkpoint cannot be read.
    """
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            tree = checkpointer.metadata(folder / str(step) / "state").item_metadata.tree
    # Orbax raises many types of errors for damaged files.
    except Exception:
        return ""
    stored, current = map(networks.named_shapes, (tree, like))
    for name in sorted(stored | current):
        before, now = stored.get(name, "absent"), current.get(name, "absent")
        if before != now and name.startswith(("params/", "opt_state/")):
            return f"{name} is {before} in the checkpoint and {now} in the config"
    return ""


def warn_damaged(folder: pathlib.Path, step: int, error: Exception) -> None:
    """Warns that a damaged checkpoint is skipped.

    Raises:
      LostError: the error is not due to damage, but to the loss of another process.
    """
    if lost := runtime_errors.lost_error(error):
        raise lost from error
    print(f"warning: checkpoint {folder}/{step} is damaged ({first_line(error)})")


def check_folder(folder: pathlib.Path) -> None:
    """Raises a DiskError if a file has the folder's name."""
    if not buckets.is_bucket(folder) and folder.exists() and not folder.is_dir():
        raise errors.DiskError(
            f"{folder} is a file, but checkpoints need a folder with this name; move the file away"
        )


def reason(error: Exception) -> str:
    """Returns the operating system's message of a failed write.

    Orbax includes the system's error in the text of another error.
    """
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return first_line(error)


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, because Orbax's messages are long."""
    return str(error).strip().split("\n")[0].split(" [tensorstore_spec")[0][:200]
