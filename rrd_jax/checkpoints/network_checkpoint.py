"""Checkpoints that contain only a network, and the networks in checkpoints of runs."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from rrd_jax import errors, networks, optim
from rrd_jax.checkpoints import best_checkpoint, digests, staging, storage, stored_arrays
from rrd_jax.checkpoints.storage import ocp
from rrd_jax.objectives import ObjectiveState
from rrd_jax.terminal import console
from rrd_jax.training import criterion
from rrd_jax.training.state import TrainState


def save_network(folder: pathlib.Path, variables: dict[str, Any], meta: dict[str, Any]) -> str:
    """Writes a network that `load_student` can read.

    Args:
      folder: the folder in which `checkpoints` is created.
      variables: {"params", "batch_stats"} as NumPy arrays.
      meta: JSON with "model", "num_classes" and "image_shape".

    Returns:
      The digest of the variables.

    Raises:
      InputError: the folder contains checkpoints, or cannot be written.
    """
    checkpoint_folder = folder.absolute() / "checkpoints"
    if storage.steps(checkpoint_folder):
        raise errors.InputError(
            f"{checkpoint_folder} already contains checkpoints; choose another folder"
        )
    student = digests.digest(variables)
    arrays = {"params": {"student": variables["params"]}, "batch_stats": variables["batch_stats"]}
    write = staging.write if staging.is_staged(checkpoint_folder) else storage.write
    write(checkpoint_folder, arrays, meta, {"student": student})
    return student


def load_student(
    folder: pathlib.Path, which: str = "", *, raw: bool = False, lazy: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the network of a checkpoint.

    Args:
      folder: a workdir, or the `checkpoints` folder of a workdir.
      which: "best" by `best_checkpoint.score`, "last", or a step. "" is "last" without a log line.
      raw: True to read the raw weights instead of their average.
      lazy: True to return arrays that are read when they are used, after their digest is verified.

    Returns:
      `TrainState.evaluated.student` as NumPy arrays, or as `networks.Stored` if lazy, and the
      checkpoint's JSON. The average of a schedule-free optimizer is never lazy.

    Raises:
      InputError: the checkpoint is missing or damaged.
    """
    return _load(folder, which, functools.partial(_load_student, raw=raw, lazy=lazy))


def load_objective(
    folder: pathlib.Path, name: str, which: str = "", *, with_memory: bool = False
) -> tuple[ObjectiveState, dict[str, Any]]:
    """Reads the state of an objective from a checkpoint.

    Args:
      folder: see `load_student`.
      name: name of the objective.
      which: see `load_student`.
      with_memory: whether the memories of all objectives are read, which can be large.

    Returns:
      The state as NumPy arrays, without `with_memory` its memory is (); and the checkpoint's JSON.

    Raises:
      InputError: the checkpoint is missing or damaged, or does not contain the objective.
    """
    fields = ("params", "frozen", "memory") if with_memory else ("params", "frozen")
    parts, meta = _load(folder, which, functools.partial(_load_objectives, fields))
    names = sorted(parts["params"].keys() | parts["frozen"].keys())
    if name not in names:
        raise errors.InputError(
            f"the run in {folder} has no objective '{name}'; available:"
            f" {', '.join(names) or 'none'}"
        )
    return ObjectiveState(**{field: part.get(name, ()) for field, part in parts.items()}), meta


def _load(folder: pathlib.Path, which: str, load: Callable) -> tuple[Any, dict[str, Any]]:
    """Returns the result of `load(folder, step)` for the selected checkpoint."""
    checkpoint_folder = folder / "checkpoints"
    folder = (checkpoint_folder if checkpoint_folder.is_dir() else folder).absolute()
    steps = storage.steps(folder)
    if steps and which not in ("", "last"):
        return _load_step(folder, which, steps, load)
    for step in reversed(steps):
        try:
            content, meta = load(folder, step)
        except (errors.BucketError, errors.DiskError, errors.UnavailableError):
            raise
        # Orbax raises many types of errors for damaged files.
        except Exception as error:
            storage.warn_damaged(folder, step, error)
            continue
        if which:
            console.note(f"the last intact checkpoint in {folder} is step {step}")
        return content, meta
    missing = "" if folder.exists() else ", which does not exist"
    raise errors.InputError(
        f"no intact checkpoint in {folder}{missing}; pass the workdir of a run, a folder written by"
        " `python -m rrd_jax.convert`, or a .pth or .safetensors file"
    )


def _load_step(
    folder: pathlib.Path, which: str, steps: list[int], load: Callable
) -> tuple[Any, dict[str, Any]]:
    """Returns the result of `load` for the best checkpoint or a step, without a fallback."""
    step = _best_step(folder) if which == "best" else which
    if not str(step).isdecimal() or int(step) not in steps:
        raise errors.InputError(
            f"unknown checkpoint '{which}' in {folder}; available: best, last,"
            f" {', '.join(map(str, steps))}"
        )
    try:
        content, meta = load(folder, int(step))
    except (errors.BucketError, errors.DiskError, errors.UnavailableError):
        raise
    # Orbax raises many types of errors for damaged files.
    except Exception as error:
        raise errors.InputError(
            f"checkpoint {folder}/{step} is damaged ({storage.first_line(error)}); other steps:"
            f" {', '.join(str(other) for other in steps if other != int(step)) or 'none'}"
        ) from error
    if which == "best":
        score = best_checkpoint.describe(best_checkpoint.scores(folder)[step], meta["result"])
        caveat = best_checkpoint.caveat(meta["result"])
        console.note(f"the best checkpoint in {folder} is step {step}, {score}{caveat}")
        meta = _with_choice(meta)
    return content, meta


def _with_choice(meta: dict[str, Any]) -> dict[str, Any]:
    """Returns a checkpoint's JSON, with the criterion of the best checkpoint in its description."""
    if not meta.get("about"):
        return meta
    training = meta["about"].get("training") or {}
    training = {**training, "chosen_by": criterion.of_result(meta["result"])[0]}
    return {**meta, "about": {**meta["about"], "training": training}}


def _best_step(folder: pathlib.Path) -> int:
    scored = best_checkpoint.scores(folder)
    step = best_checkpoint.best(scored)
    if step is None:
        raise errors.InputError(
            f"{folder} has no best checkpoint, because it contains a converted network, a run"
            " before the end of its first epoch, or a run without a metric that compares epochs;"
            " omit @best"
        )
    meta, _ = storage.read_json(folder, max(scored))
    result = meta["result"]
    highest = best_checkpoint.highest(result)
    if highest is not None and scored[step] < highest:
        raise errors.InputError(
            f"the best checkpoint in {folder}, epoch {result['best_epoch']} with"
            f" {best_checkpoint.describe(highest, result)}, is missing; pass @{step} for the best"
            f" remaining checkpoint, with {best_checkpoint.describe(scored[step], result)}"
        )
    return step


def _load_student(
    folder: pathlib.Path, step: int, *, raw: bool, lazy: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    meta, stored = storage.read_json(folder, step)
    classifier = meta.get("classifier", "")
    arrays_folder = staging.readable(folder, step) / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = stored_arrays.describe(checkpointer, arrays_folder)
        needed = _parts_of_student(tree, classifier)
        has_ema = "ema" in needed
        # Digests cover whole parts of the state.
        if raw and has_ema:
            needed = {"params": tree["params"], "batch_stats": tree["batch_stats"]}
        average = {} if raw or has_ema else _average(tree)
        if lazy and not average:
            restored = stored_arrays.open_arrays(arrays_folder, needed)
        else:
            restored = stored_arrays.read(checkpointer, arrays_folder, needed | average)
    parts = dict.fromkeys(TrainState.__dataclass_fields__) | restored
    state = TrainState(**parts | {"classifier": classifier})
    _verify_average(state.opt_state, stored)
    checked = restored if raw and has_ema else {"student": state.student}
    digests.verify({part: digests.digest(tree) for part, tree in checked.items()}, stored)
    return state.evaluated.student, meta


def _verify_average(opt_state: Any, stored: dict[str, str]) -> None:
    """Raises a ValueError for a damaged average; earlier versions stored no digest of it."""
    average = optim.schedule_free(opt_state)
    if average and "average" in stored:
        digests.verify({"average": digests.digest(average)}, stored)


def _load_objectives(
    fields: tuple[str, ...], folder: pathlib.Path, step: int
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Reads fields of the states of all objectives, and the checkpoint's JSON."""
    meta, stored = storage.read_json(folder, step)
    arrays_folder = staging.readable(folder, step) / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = stored_arrays.describe(checkpointer, arrays_folder)
        # Digests cover whole parts; a checkpoint that contains only a network has no `frozen`.
        needed = {part: tree[part] for part in fields if part in tree}
        has_ema = "params" in (tree.get("ema") or {})
        average = {} if has_ema else _average(tree)
        restored = stored_arrays.read(checkpointer, arrays_folder, needed | average)
    opt_state = restored.pop("opt_state", None)
    _verify_average(opt_state, stored)
    computed = {part: digests.digest(tree) for part, tree in restored.items()}
    digests.verify({part: value for part, value in computed.items() if part in stored}, stored)
    params = optim.evaluation_params(opt_state, restored["params"])
    parts = {field: restored.get(field, {}) for field in fields}
    return parts | {"params": params.get("objectives", {})}, meta


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


def _average(tree: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of a stored state that holds a schedule-free optimizer's average; or {}."""
    opt_state = tree.get("opt_state")
    states = optim.schedule_free(opt_state)
    prefixes = tuple(f"{path}/{field}" for path in states for field in optim.AVERAGE_FIELDS)

    def select(path, leaf):
        return leaf if f"/{networks.leaf_name(path)}".startswith(prefixes) else ocp.PLACEHOLDER

    return {"opt_state": jax.tree_util.tree_map_with_path(select, opt_state)} if states else {}
