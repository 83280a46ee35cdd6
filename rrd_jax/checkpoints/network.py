"""A network alone: written by itself, and read from a run's checkpoints."""

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from rrd_jax import errors
from rrd_jax.checkpoints import digests, storage
from rrd_jax.state import TrainState


def save_network(folder: pathlib.Path, variables: dict[str, Any], meta: dict[str, Any]) -> str:
    """Writes a network alone, for `load_student` to read.

    Args:
      folder: receives `checkpoints`.
      variables: {"params", "batch_stats"} as numpy arrays.
      meta: JSON beside it: "model", "num_classes", "image_shape".

    Returns:
      The digest of the variables.

    Raises:
      InputError: there are checkpoints already, or the folder cannot be written.
    """
    checkpoint_folder = folder.absolute() / "checkpoints"
    if storage.steps(checkpoint_folder):
        raise errors.InputError(
            f"{checkpoint_folder} holds checkpoints already; choose another folder"
        )
    student = digests.digest(variables)
    arrays = {"params": {"student": variables["params"]}, "batch_stats": variables["batch_stats"]}
    storage.write(checkpoint_folder, arrays, meta, {"student": student})
    return student


def load_student(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The network of the newest intact checkpoint, to serve as a teacher.

    Args:
      folder: a workdir of rrd_jax, or the `checkpoints` folder in it.

    Returns:
      `TrainState.student` as numpy arrays, and the checkpoint's JSON.

    Raises:
      InputError: there is no checkpoint, or none is intact.
    """
    checkpoint_folder = folder / "checkpoints"
    folder = (checkpoint_folder if checkpoint_folder.is_dir() else folder).absolute()
    for step in reversed(storage.steps(folder)):
        try:
            return _load_student(folder, step)
        except Exception as error:  # whatever Orbax runs into in damaged files
            storage.warn_damaged(folder, step, error)
    raise errors.InputError(
        f"no intact checkpoint under {folder}; a checkpoint is the workdir of a run, a folder"
        " written by `python -m rrd_jax.convert`, or a .pth or .safetensors file"
    )


def _load_student(folder: pathlib.Path, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    meta, stored = storage.read_json(folder, step)
    classifier = meta.get("classifier", "")
    arrays_folder = folder / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(arrays_folder).item_metadata.tree
        needed = _parts_of_student(tree, classifier)
        restore_args = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), needed)
        restored = checkpointer.restore(
            arrays_folder,
            args=ocp.args.PyTreeRestore(needed, restore_args=restore_args, partial_restore=True),
        )
    parts = dict.fromkeys(TrainState.__dataclass_fields__) | restored
    student = TrainState(**parts | {"classifier": classifier}).student
    digests.verify({"student": digests.digest(student)}, stored)
    return student, meta


def _parts_of_student(tree: dict[str, Any], classifier: str) -> dict[str, Any]:
    """The leaves of a stored state that `TrainState.student` looks at: few need be read."""
    if "params" in (tree.get("ema") or {}):
        parts, params = {"ema": tree["ema"]}, {}
    else:
        parts, params = {"batch_stats": tree["batch_stats"]}, {"student": tree["params"]["student"]}
    if classifier:
        params["objectives"] = {classifier: tree["params"]["objectives"][classifier]}
        parts |= {field: {classifier: tree[field][classifier]} for field in ("frozen", "memory")}
    return parts | ({"params": params} if params else {})
