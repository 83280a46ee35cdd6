"""Checkpoints of a network alone, and networks read from the checkpoints of runs."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rrd_jax import errors
from rrd_jax.checkpoints import best_checkpoint, digests, storage
from rrd_jax.checkpoints.storage import ocp
from rrd_jax.objectives import ObjectiveState
from rrd_jax.terminal import console
from rrd_jax.training.state import TrainState


def save_network(folder: pathlib.Path, variables: dict[str, Any], meta: dict[str, Any]) -> str:
    """Writes a network for `load_student`.

    Args:
      folder: `checkpoints` is created in it.
      variables: {"params", "batch_stats"} as numpy arrays.
      meta: JSON with "model", "num_classes" and "image_shape".

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


def load_student(
    folder: pathlib.Path, which: str = "", *, raw: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the network of a checkpoint.

    Args:
      folder: a workdir, or the `checkpoints` folder in it.
      which: "best", by test top-1; "last"; or a step. "" is "last" without a line in the log.
      raw: whether to read the weights themselves in a run that averages them.

    Returns:
      `TrainState.student` as numpy arrays, and the checkpoint's JSON.

    Raises:
      InputError: there is no such checkpoint, or it is not intact.
    """
    return _load(folder, which, functools.partial(_load_student, raw=raw))


def load_objective(
    folder: pathlib.Path, name: str, which: str = ""
) -> tuple[ObjectiveState, dict[str, Any]]:
    """Reads the state of an objective from a checkpoint, without its memory.

    Args:
      folder: see `load_student`.
      name: of the objective.
      which: see `load_student`.

    Returns:
      The state's params and frozen as numpy arrays, and the checkpoint's JSON.

    Raises:
      InputError: there is no such checkpoint, it is not intact, or it has no such objective.
    """
    (params, frozen), meta = _load(folder, which, _load_objectives)
    known = sorted(params.keys() | frozen.keys())
    if name not in known:
        raise errors.InputError(
            f"the run in {folder} has no objective '{name}'; its objectives:"
            f" {', '.join(known) or 'none'}"
        )
    return ObjectiveState(params.get(name, ()), frozen.get(name, ())), meta


def _load(folder: pathlib.Path, which: str, load: Callable) -> tuple[Any, dict[str, Any]]:
    """Calls `load(folder, step)` for the chosen checkpoint and returns its result."""
    checkpoint_folder = folder / "checkpoints"
    folder = (checkpoint_folder if checkpoint_folder.is_dir() else folder).absolute()
    steps = storage.steps(folder)
    if steps and which not in ("", "last"):
        return _load_step(folder, which, steps, load)
    for step in reversed(steps):
        try:
            content, meta = load(folder, step)
        except Exception as error:  # Orbax raises many types for damaged files.
            storage.warn_damaged(folder, step, error)
            continue
        if which:
            console.note(f"the last intact checkpoint in {folder} is step {step}")
        return content, meta
    gone = "" if folder.exists() else ", which does not exist"
    raise errors.InputError(
        f"no intact checkpoint under {folder}{gone}; a checkpoint is the workdir of a run, a folder"
        " written by `python -m rrd_jax.convert`, or a .pth or .safetensors file"
    )


def _load_step(
    folder: pathlib.Path, which: str, steps: list[int], load: Callable
) -> tuple[Any, dict[str, Any]]:
    """Calls `load` for the best checkpoint or a given step, without falling back to another."""
    step = _best_step(folder) if which == "best" else which
    if not str(step).isdecimal() or int(step) not in steps:
        raise errors.InputError(
            f"there is no checkpoint '{which}' in {folder}; known: best, last,"
            f" {', '.join(map(str, steps))}"
        )
    try:
        content, meta = load(folder, int(step))
    except Exception as error:  # Orbax raises many types for damaged files.
        raise errors.InputError(
            f"checkpoint {folder}/{step} is damaged ({storage.first_line(error)}); there are also"
            f" {', '.join(str(other) for other in steps if other != int(step)) or 'no others'}"
        ) from error
    if which == "best":
        score = best_checkpoint.describe(best_checkpoint.scores(folder)[step], meta["result"])
        console.note(f"the best checkpoint in {folder} is step {step}, {score}")
    return content, meta


def _best_step(folder: pathlib.Path) -> int:
    scored = best_checkpoint.scores(folder)
    step = best_checkpoint.best(scored)
    if step is None:
        raise errors.InputError(
            f"no checkpoint in {folder} was tested, so that none is the best: it is a converted"
            " network, or a run before the end of its first epoch; leave @best out"
        )
    meta, _ = storage.read_json(folder, max(scored))
    result = meta["result"]
    highest = best_checkpoint.highest(result)
    if scored[step] < highest:
        raise errors.InputError(
            f"the best checkpoint of {folder}, of epoch {result['best_epoch']} with"
            f" {best_checkpoint.describe(highest, result)}, is gone; of the others, step {step} is"
            f" the best, with {best_checkpoint.describe(scored[step], result)}: @{step}"
        )
    return step


def _load_student(
    folder: pathlib.Path, step: int, *, raw: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    meta, stored = storage.read_json(folder, step)
    classifier = meta.get("classifier", "")
    arrays_folder = folder / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(arrays_folder).item_metadata.tree
        needed = _parts_of_student(tree, classifier)
        raw = raw and "ema" in needed
        if raw:  # the digests are of whole parts
            needed = {"params": tree["params"], "batch_stats": tree["batch_stats"]}
        restored = _restored(checkpointer, arrays_folder, needed)
    parts = dict.fromkeys(TrainState.__dataclass_fields__) | restored
    student = TrainState(**parts | {"classifier": classifier}).student
    checked = restored if raw else {"student": student}
    digests.verify({part: digests.digest(tree) for part, tree in checked.items()}, stored)
    return student, meta


def _load_objectives(
    folder: pathlib.Path, step: int
) -> tuple[tuple[dict[str, Any], dict[str, Any]], dict[str, Any]]:
    """Reads ((params, frozen) of all objectives, meta)."""
    meta, stored = storage.read_json(folder, step)
    arrays_folder = folder / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(arrays_folder).item_metadata.tree
        # Digests are of whole parts; a checkpoint of a network alone has no `frozen`.
        needed = {part: tree[part] for part in ("params", "frozen") if part in tree}
        restored = _restored(checkpointer, arrays_folder, needed)
    computed = {part: digests.digest(tree) for part, tree in restored.items()}
    digests.verify({part: value for part, value in computed.items() if part in stored}, stored)
    return (restored["params"].get("objectives", {}), restored.get("frozen", {})), meta


def _restored(checkpointer: Any, folder: pathlib.Path, needed: Any) -> Any:
    """Reads some leaves of a stored state as numpy arrays."""
    restore_args = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), needed)
    return checkpointer.restore(
        folder,
        args=ocp.args.PyTreeRestore(needed, restore_args=restore_args, partial_restore=True),
    )


def _parts_of_student(tree: dict[str, Any], classifier: str) -> dict[str, Any]:
    """Returns the leaves of a stored state that `TrainState.student` reads."""
    if "params" in (tree.get("ema") or {}):
        parts, params = {"ema": tree["ema"]}, {}
    else:
        parts, params = {"batch_stats": tree["batch_stats"]}, {"student": tree["params"]["student"]}
    if classifier:
        params["objectives"] = {classifier: tree["params"]["objectives"][classifier]}
        parts |= {field: {classifier: tree[field][classifier]} for field in ("frozen", "memory")}
    return parts | ({"params": params} if params else {})
