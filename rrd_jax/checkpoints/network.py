"""A network alone: written by itself, and read from a run's checkpoints."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rrd_jax import errors
from rrd_jax.checkpoints import best, digests, storage
from rrd_jax.checkpoints.storage import ocp
from rrd_jax.objectives import ObjectiveState
from rrd_jax.terminal import console
from rrd_jax.training.state import TrainState


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


def load_student(
    folder: pathlib.Path, which: str = "", *, raw: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The network of a checkpoint, to serve as a teacher.

    Args:
      folder: a workdir of rrd_jax, or the `checkpoints` folder in it.
      which: "best", by test top-1; "last"; or a step. "" for the newest intact one, as "last", but
        not announced.
      raw: of a run that averages its weights, whether these themselves are wanted.

    Returns:
      `TrainState.student` as numpy arrays, and the checkpoint's JSON.

    Raises:
      InputError: there is no such checkpoint, or it is not intact.
    """
    return _load(folder, which, functools.partial(_load_student, raw=raw))


def load_objective(
    folder: pathlib.Path, name: str, which: str = ""
) -> tuple[ObjectiveState, dict[str, Any]]:
    """What a checkpoint holds of an objective, without its memory.

    Args:
      folder: as `load_student` has it.
      name: of the objective.
      which: as `load_student` has it.

    Returns:
      Its params and frozen as numpy arrays, and the checkpoint's JSON.

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
    """What `load` reads, (folder, step) -> (what, meta), of the checkpoint that is chosen."""
    checkpoint_folder = folder / "checkpoints"
    folder = (checkpoint_folder if checkpoint_folder.is_dir() else folder).absolute()
    steps = storage.steps(folder)
    if steps and which not in ("", "last"):
        return _load_step(folder, which, steps, load)
    for step in reversed(steps):
        try:
            found, meta = load(folder, step)
        except Exception as error:  # whatever Orbax runs into in damaged files
            storage.warn_damaged(folder, step, error)
            continue
        if which:
            console.note(f"the last intact checkpoint in {folder} is step {step}")
        return found, meta
    gone = "" if folder.exists() else ", which does not exist"
    raise errors.InputError(
        f"no intact checkpoint under {folder}{gone}; a checkpoint is the workdir of a run, a folder"
        " written by `python -m rrd_jax.convert`, or a .pth or .safetensors file"
    )


def _load_step(
    folder: pathlib.Path, which: str, steps: list[int], load: Callable
) -> tuple[Any, dict[str, Any]]:
    """What is read of the best checkpoint, or of a step; never of another one."""
    step = _best_step(folder) if which == "best" else which
    if not str(step).isdecimal() or int(step) not in steps:
        raise errors.InputError(
            f"there is no checkpoint '{which}' in {folder}; known: best, last,"
            f" {', '.join(map(str, steps))}"
        )
    try:
        found, meta = load(folder, int(step))
    except Exception as error:  # whatever Orbax runs into in damaged files
        raise errors.InputError(
            f"checkpoint {folder}/{step} is damaged ({storage.first_line(error)}); there are also"
            f" {', '.join(str(other) for other in steps if other != int(step)) or 'no others'}"
        ) from error
    if which == "best":
        said = best.said(best.scores(folder)[step], meta["result"])
        console.note(f"the best checkpoint in {folder} is step {step}, {said}")
    return found, meta


def _best_step(folder: pathlib.Path) -> int:
    scored = best.scores(folder)
    step = best.best(scored)
    if step is None:
        raise errors.InputError(
            f"no checkpoint in {folder} was tested, so that none is the best: it is a converted"
            " network, or a run before the end of its first epoch; leave @best out"
        )
    meta, _ = storage.read_json(folder, max(scored))
    result = meta["result"]
    highest = best.highest(result)
    if scored[step] < highest:
        raise errors.InputError(
            f"the best checkpoint of {folder}, of epoch {result['best_epoch']} with"
            f" {best.said(highest, result)}, is gone; of those that are left, step {step} is"
            f" the best, with {best.said(scored[step], result)}: @{step}"
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
    """(What all objectives train, their constants), and the JSON."""
    meta, stored = storage.read_json(folder, step)
    arrays_folder = folder / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(arrays_folder).item_metadata.tree
        # Digests are of whole parts; a network alone has no constants.
        needed = {part: tree[part] for part in ("params", "frozen") if part in tree}
        restored = _restored(checkpointer, arrays_folder, needed)
    computed = {part: digests.digest(tree) for part, tree in restored.items()}
    digests.verify({part: value for part, value in computed.items() if part in stored}, stored)
    return (restored["params"].get("objectives", {}), restored.get("frozen", {})), meta


def _restored(checkpointer: Any, folder: pathlib.Path, needed: Any) -> Any:
    """The arrays of some leaves of a stored state, by a `Checkpointer`."""
    restore_args = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), needed)
    return checkpointer.restore(
        folder,
        args=ocp.args.PyTreeRestore(needed, restore_args=restore_args, partial_restore=True),
    )


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
