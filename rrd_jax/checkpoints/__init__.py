"""Checkpoints of one training run: the newest two and the best, each with a digest.

Orbax writes and commits them atomically. It does not notice a flipped byte in array data, so a
digest of every part of the state is kept beside it and verified on restore. Digests are computed on
the devices that hold the state, and are the same however it is split.
"""

import contextlib
import hashlib
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from rrd_jax import errors, parallel
from rrd_jax.state import TrainState

_FIELDS = ("step", "params", "batch_stats", "ema", "opt_state", "frozen", "memory", "key")


class Checkpoints:
    """The checkpoints in one folder, by step.

    A context manager: however a run ends, a save that has begun is finished first.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder.absolute()
        self._manager = self._open()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self.close()

    def _open(self) -> ocp.CheckpointManager:
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(2),
                checkpoint_managers.BestN(
                    # Of equal scores the first, as the reports say.
                    get_metric_fn=lambda metrics: (metrics["score"], -metrics["step"]),
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy, cleanup_tmp_directories=True
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def save(self, state: TrainState, meta: dict[str, Any], score: float | None = None) -> None:
        """Starts writing the state; training may go on while it is written.

        Args:
          state: what to keep.
          meta: JSON beside it.
          score: higher is better; None for a checkpoint that cannot be the best.

        Raises:
          DivergedError: a parameter or statistic is not finite; nothing is written.
          InputError: this or the save before it failed; earlier checkpoints are intact.
        """
        step, digests = int(state.step), _digests(state)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    meta=ocp.args.JsonSave(_seal(meta, digests)),
                ),
                metrics=None if score is None else {"score": score, "step": step},
            )
        except (OSError, ValueError) as error:
            raise self.failed(error) from error

    def wait(self) -> None:
        """Returns when all saves are on disk; raises InputError if one could not be."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self.failed(error) from error

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest intact checkpoint, shaped and placed like `like`, and its JSON.

        Damaged ones are reported and moved aside.

        Returns:
          None when there are no checkpoints.

        Raises:
          InputError: there are checkpoints, and none is intact.
        """
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._restore(step, like)
            except Exception as error:
                damaged.append(step)
                _warn(self.folder, step, error)
                continue
            if damaged:
                parallel.main_first(lambda: self._set_aside(damaged))
                print(f"warning: going on from step {step}; damaged ones are kept as *.damaged")
                self._manager = self._open()
            return restored
        if damaged:
            raise errors.InputError(
                f"all checkpoints in {self.folder} are damaged; move the folder away to start anew"
            )
        return None

    def _set_aside(self, damaged: list[int]) -> None:
        for step in damaged if parallel.is_main() else ():
            (self.folder / str(step)).rename(self.folder / f"{step}.damaged")

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        state, meta, digests = _read(self._manager, step, abstract)
        _verify(_digests(state), digests)
        return state, meta

    @property
    def latest_step(self) -> int | None:
        """The newest step on disk; None when there is none."""
        return self._manager.latest_step()

    def close(self) -> None:
        """Waits for pending saves and releases the folder."""
        self.wait()
        self._manager.close()

    @property
    def kept(self) -> str:
        """What is left when a run breaks off, as a clause."""
        step = self.latest_step
        return "there is no checkpoint yet" if step is None else f"step {step} is the last good one"

    def failed(self, error: Exception, what: str = "a save failed") -> errors.InputError:
        """The InputError for a disk that does not take what a run writes."""
        full = "No space left on device"  # buried deep in what the storage library says
        reason = full if full in str(error) else _first_line(error)
        return errors.InputError(
            f"{what} in {self.folder} ({reason}); {self.kept}; mend the disk and start the same"
            " command again"
        )


def read_meta(folder: pathlib.Path) -> dict[str, Any] | None:
    """The JSON of the newest checkpoint in `folder`; None when there is none or it is damaged."""
    steps = _steps(folder)
    try:
        return _read_meta(folder / str(steps[-1]))[0]
    except (IndexError, OSError, ValueError):
        return None


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
    inner = folder.absolute() / "checkpoints"
    if _steps(inner):
        raise errors.InputError(f"{inner} holds checkpoints already; choose another folder")
    found = digest(variables)
    state = {"params": {"student": variables["params"]}, "batch_stats": variables["batch_stats"]}
    _write(inner, state, meta, {"student": found})
    return found


def exists(folder: pathlib.Path) -> bool:
    """Whether `save_arrays` has written there."""
    return bool(_steps(folder))


def save_arrays(folder: pathlib.Path, arrays: Any, meta: dict[str, Any]) -> None:
    """Writes arrays, however they are split, for `load_arrays` to read.

    Args:
      folder: to write to; nothing is in it.
      arrays: a tree.
      meta: JSON beside it.

    Raises:
      InputError: the folder cannot be written.
    """
    _write(folder, arrays, meta, {"arrays": digest(arrays)})


def load_arrays(folder: pathlib.Path, like: Any) -> Any:
    """The arrays of `save_arrays`, placed like `like`; None, and a warning, if they are damaged."""
    try:
        with ocp.CheckpointManager(folder) as manager:
            arrays, _, digests = _read(manager, 0, like)
        _verify({"arrays": digest(arrays)}, digests)
    except Exception as error:
        _warn(folder, 0, error)
        return None
    return arrays


def _read(
    manager: ocp.CheckpointManager, step: int, like: Any
) -> tuple[Any, dict[str, Any], dict[str, str]]:
    """What was written: the arrays, placed like `like`, the JSON, and the digests to verify."""
    restored = manager.restore(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore()),
    )
    return restored.state, *_unseal(restored.meta)


def _write(folder: pathlib.Path, state: Any, meta: dict[str, Any], digests: dict[str, str]) -> None:
    try:
        with ocp.CheckpointManager(folder) as manager:
            manager.save(
                0,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    meta=ocp.args.JsonSave(_seal(meta, digests)),
                ),
            )
    except (OSError, ValueError) as error:
        raise errors.InputError(f"{folder} cannot be written ({_first_line(error)})") from error


def load_student(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The network of the newest intact checkpoint, to serve as a teacher.

    Args:
      folder: a workdir of rrd_jax, or the `checkpoints` folder in it.

    Returns:
      {"params", "batch_stats"} as numpy arrays, with "classifier" where an objective's parts
      classify in the student's place, and the checkpoint's JSON.

    Raises:
      InputError: there is no checkpoint, or none is intact.
    """
    inner = folder / "checkpoints"
    folder = (inner if inner.is_dir() else folder).absolute()
    for step in reversed(_steps(folder)):
        try:
            return _load_student(folder / str(step))
        except Exception as error:
            _warn(folder, step, error)
    raise errors.InputError(
        f"no intact checkpoint under {folder}; a checkpoint is the workdir of a run, a folder"
        " written by `python -m rrd_jax.convert`, or a .pth or .safetensors file"
    )


def _load_student(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    meta, digests = _read_meta(folder)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(folder / "state").item_metadata.tree
        if "params" in (tree.get("ema") or {}):
            wanted = {"ema": tree["ema"]}
        else:
            wanted = {"params": {"student": tree["params"]["student"]}}
            wanted["batch_stats"] = tree["batch_stats"]
        if name := meta.get("classifier"):
            wanted["params"] |= {"objectives": {name: tree["params"]["objectives"][name]}}
            wanted |= {field: {name: tree[field][name]} for field in ("frozen", "memory")}
        restore_args = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        restored = checkpointer.restore(
            folder / "state",
            args=ocp.args.PyTreeRestore(wanted, restore_args=restore_args, partial_restore=True),
        )
    student = restored.get("ema") or {
        "params": restored["params"]["student"],
        "batch_stats": restored["batch_stats"],
    }
    if name:
        student["classifier"] = {
            "params": restored["params"]["objectives"][name],
            "frozen": restored["frozen"][name],
            "memory": restored["memory"][name],
        }
    _verify({"student": digest(student)}, digests)
    return student, meta


def _read_meta(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, str]]:
    return _unseal(json.loads((folder / "meta" / "metadata").read_text()))


def _seal(meta: dict[str, Any], digests: dict[str, str]) -> dict[str, Any]:
    """The JSON with the digests of the state, and one of its own."""
    own = hashlib.sha256(json.dumps([meta, digests], sort_keys=True).encode()).hexdigest()
    return {"meta": meta, "digests": digests, "seal": own}


def _unseal(sealed: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    meta, digests = sealed.get("meta"), sealed.get("digests")
    if _seal(meta, digests)["seal"] != sealed.get("seal"):
        raise ValueError("the digest of its JSON does not match")
    return meta, digests


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def _warn(folder: pathlib.Path, step: int, error: Exception) -> None:
    print(f"warning: checkpoint {folder}/{step} is damaged ({_first_line(error)})")


def _steps(folder: pathlib.Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def _digests(state: TrainState) -> dict[str, str]:
    """Of each part of the state; raises a DivergedError if its student is not finite."""
    bare = state.replace(key=jax.random.key_data(state.key))
    sums = _all_sums(bare)
    for part in (sums.params, sums.batch_stats, sums.ema):
        for path, words in jax.tree_util.tree_leaves_with_path(part):
            if not words[2]:
                raise errors.DivergedError(
                    f"parameter {jax.tree_util.keystr(path)} is not finite at step {state.step}"
                )
    found = {field: _combined(getattr(bare, field), getattr(sums, field)) for field in _FIELDS}
    return found | {"student": _combined(bare.student, sums.student)}


def digest(tree: Any) -> str:
    """Of all arrays of a tree, by their places in it."""
    return _combined(tree, _all_sums(tree))


def _all_sums(tree: Any) -> Any:
    return jax.device_get(jax.tree.map(_sums, tree))


def _combined(tree: Any, sums: Any) -> str:
    """Of the leaves' sums, each by its place in the tree, its type and its shape."""
    digest = hashlib.sha256()
    for leaf, words in zip(jax.tree.leaves(tree), jax.tree.leaves(sums), strict=True):
        digest.update(f"{leaf.dtype}{leaf.shape}{words[0]:08x}{words[1]:08x}".encode())
    return digest.hexdigest()[:32]


@jax.jit  # leaf by leaf: few shapes, where whole trees take minutes to compile
def _sums(leaf: jax.Array) -> jax.Array:
    """[3] uint32: two sums over the words of an array, and whether all are finite.

    Each word counts by its place. No change of a single word leaves the first sum as it was;
    integers are added, so neither the order nor the split over devices matters.
    """
    words = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}"))
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    words, weight = words.astype(jnp.uint32), _mixed(place)
    first = jnp.sum(words * (weight | 1), dtype=jnp.uint32)
    second = jnp.sum(_mixed(words ^ weight), dtype=jnp.uint32)
    return jnp.stack([first, second, jnp.isfinite(leaf).all().astype(jnp.uint32)])


def _mixed(x: jax.Array) -> jax.Array:
    """A permutation of the 32-bit words that looks random: MurmurHash3's last step."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _verify(found: dict[str, str], kept: dict[str, str]) -> None:
    if any(len(digest) != 32 for digest in kept.values()):
        raise ValueError("it was written by another version of rrd_jax")
    differing = [part for part, digest in found.items() if kept.get(part) != digest]
    if differing:
        raise ValueError(f"its digest does not match in {', '.join(differing)}")
