"""The checkpoints of a training run: the newest two and the best.

Orbax writes checkpoints atomically, but does not detect changed bytes in array data. A digest of
each part of the state is therefore stored with the arrays and verified on restore.
"""

import contextlib
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import buckets, errors, optim, parallel
from rrd_jax.checkpoints import digests, staging, storage
from rrd_jax.checkpoints.best_checkpoint import KeepBest
from rrd_jax.checkpoints.storage import ocp
from rrd_jax.terminal import runtime_errors
from rrd_jax.training.state import TrainState

_PARTS = ("step", "params", "batch_stats", "ema", "opt_state", "frozen", "memory", "key")


class Checkpoints:
    """The checkpoints in one folder, by step.

    The context manager waits for pending saves on exit. Because importing Orbax is slow, an empty
    folder is opened in Orbax only at the first save.

    Args:
      folder: folder of the checkpoints, created if missing. Checkpoints of s3:// are staged in a
        local folder.

    Raises:
      DiskError: the folder cannot be created or read.
      InputError: Orbax cannot open the folder.
      BucketError: the bucket cannot be reached.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder.absolute()
        storage.check_folder(self.folder)
        parallel.main_first(
            lambda: parallel.is_main() and storage.rename_damaged_metadata(self.folder)
        )
        self._opened: Any = None
        self._staging = staging.Staging(self.folder) if staging.is_staged(self.folder) else None
        # The folder that Orbax writes.
        self._written = self._staging.folder if self._staging else self.folder
        try:
            self._written.mkdir(parents=True, exist_ok=True)
            if any(self._written.iterdir()):
                self._opened = _open(self._written)
        except errors.BucketError:
            raise
        except OSError as error:
            raise errors.DiskError(
                f"checkpoints cannot be stored in {self.folder} ({storage.reason(error)}); fix the"
                " cause, or pass another --workdir"
            ) from error
        # Orbax raises many types of errors for damaged files.
        except Exception as error:
            raise errors.InputError(
                f"{self.folder} cannot be read ({storage.first_line(error)}); move it away to start"
                " from scratch"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.close()
        else:
            # The error of the `with` block is more informative.
            with contextlib.suppress(Exception):
                self.close()

    @property
    def _manager(self) -> Any:
        if self._opened is None:
            self._opened = _open(self._written)
        return self._opened

    def save(self, state: TrainState, meta: dict[str, Any], score: float | None = None) -> None:
        """Starts writing the state in the background.

        Args:
          state: the train state.
          meta: JSON to store with the state.
          score: score, where higher is better; None for a checkpoint that cannot be the best.

        Raises:
          DivergedError: a parameter or statistic is not finite; nothing is written.
          DiskError: this save or the previous save failed; earlier checkpoints are intact.
          BucketError: the bucket cannot be reached; earlier checkpoints are intact.
          InUseError: another job has taken the lease of the run folder.
        """
        buckets.leases.check()
        if self._staging:
            self._staging.wait()
        step, state_digests = int(state.step), _digests(state)
        if average := optim.schedule_free(state.opt_state):
            state_digests["average"] = digests.digest(average)
        try:
            self._manager.save(
                step,
                args=storage.save_arguments(_without_empty(state), meta, state_digests),
                metrics=None if score is None else {"score": score},
            )
        except errors.InputError:
            raise
        except (OSError, ValueError) as error:
            raise self.disk_error(error) from error
        if self._staging:
            self._staging.upload(self._manager, step)

    def wait(self) -> None:
        """Waits for pending saves.

        Raises:
          DiskError: a save failed.
          BucketError: the bucket cannot be reached.
          InUseError: another job has taken the lease of the run folder.
        """
        if self._opened is None:
            return
        try:
            self._opened.wait_until_finished()
            if self._staging:
                self._staging.wait()
        except errors.InputError:
            raise
        except (OSError, ValueError) as error:
            raise self.disk_error(error) from error

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Reads the newest intact checkpoint; warns about damaged checkpoints and renames them.

        Args:
          like: arrays or shapes, with the shapes and shardings of the result.

        Returns:
          The state and the checkpoint's JSON; None if there are no checkpoints.

        Raises:
          InputError: all checkpoints are damaged, or are from another network, optimizer or
            objective.
        """
        damaged: dict[int, Exception] = {}
        steps = self._opened.all_steps() if self._opened else ()
        for step in sorted(steps, reverse=True):
            try:
                restored = self._restore_again(step, like)
            except (errors.BucketError, errors.UnavailableError):
                raise
            # Orbax raises many types of errors for damaged files.
            except Exception as error:
                if lost := runtime_errors.lost_error(error):
                    raise lost from error
                damaged[step] = error
                continue
            if damaged:
                self._warn(damaged)
                parallel.main_first(lambda: self._rename_damaged([*damaged]))
                print(
                    f"warning: resuming from step {step}; damaged checkpoints were renamed to"
                    " *.damaged"
                )
                self._opened = _open(self._written)
            return restored
        if damaged:
            if difference := storage.difference(self._written, max(damaged), like):
                raise errors.InputError(
                    f"the checkpoints in {self.folder} are from another network, optimizer or"
                    f" objective: {difference}; pass another --workdir, or the config of the"
                    " checkpoints"
                )
            self._warn(damaged)
            raise errors.InputError(
                f"all checkpoints in {self.folder} are damaged; move the folder away to start from"
                " scratch"
            )
        return None

    def _warn(self, damaged: dict[int, Exception]) -> None:
        for step, error in damaged.items():
            storage.warn_damaged(self.folder, step, error)

    def _rename_damaged(self, damaged: list[int]) -> None:
        for step in damaged if parallel.is_main() else ():
            for folder in dict.fromkeys((self._written, self.folder)):
                buckets.move(folder / str(step), folder / f"{step}.damaged")

    def _restore_again(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Restores a step; tries again in a bucket, where an outage looks like damage."""
        try:
            return self._restore(step, like)
        except Exception:
            if not buckets.is_bucket(self.folder):
                raise
        buckets.check(self.folder)
        return self._restore(step, like)

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        state, meta, stored = storage.read(self._manager, step, _without_empty(abstract))
        state = _with_empty(state, abstract)
        digests.verify(_digests(state), stored)
        return state, meta

    @property
    def latest_step(self) -> int | None:
        """The newest step on disk; None without checkpoints."""
        return next(reversed(storage.steps(self.folder)), None)

    def close(self) -> None:
        """Waits for pending saves and releases the folder."""
        self.wait()
        if self._opened is not None:
            self._opened.close()
        if self._staging:
            self._staging.close()

    @property
    def status(self) -> str:
        """A clause about the last intact checkpoint, for messages."""
        step = self.latest_step
        return (
            "no checkpoint has been written yet"
            if step is None
            else f"the last intact checkpoint is step {step}"
        )

    def disk_error(self, error: Exception, event: str = "a save failed") -> errors.DiskError:
        """Returns the DiskError for a failed write of a run.

        Args:
          error: the error of the write.
          event: the beginning of the message.

        Raises:
          LostError: the write failed because another process was lost.
          InUseError: another job has taken the lease of the run folder, and may have deleted the
            unfinished checkpoint.
          BucketError: the lease has expired, and the bucket cannot be reached.
        """
        if lost := runtime_errors.lost_error(error):
            raise lost from error
        buckets.leases.check()
        # An earlier save may be pending.
        with contextlib.suppress(Exception):
            self._manager.wait_until_finished()
        return errors.DiskError(
            f"{event} in {self.folder} ({storage.reason(error)}); {self.status}; free disk space or"
            " fix the cause, and run the same command again"
        )


def read_meta(folder: pathlib.Path) -> dict[str, Any] | None:
    """Reads the JSON of the newest checkpoint; None if it is missing or damaged."""
    try:
        meta, _ = storage.read_json(folder, storage.steps(folder)[-1])
    except (IndexError, OSError, ValueError):
        return None
    return meta


def _open(folder: pathlib.Path) -> Any:
    policies = ocp.checkpoint_managers
    preserved = [policies.LatestN(2), KeepBest(folder)]
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(preserved),
        cleanup_tmp_directories=True,
        temporary_path_class=staging.path_class() if buckets.is_bucket(folder) else None,
    )
    return ocp.CheckpointManager(folder, options=options)


def _without_empty(state: TrainState) -> TrainState:
    """Replaces arrays without elements, which optimizers may have but Orbax rejects, by None."""
    return jax.tree.map(lambda leaf: leaf if leaf.size else None, state)


def _with_empty(state: TrainState, like: TrainState) -> TrainState:
    """Inverts `_without_empty`, with the shapes of `like`."""
    return jax.tree.map(
        lambda shape, leaf: leaf if shape.size else jnp.zeros(shape.shape, shape.dtype),
        like,
        state,
    )


def _raw(leaf: jax.Array) -> jax.Array:
    """Returns the data of a typed PRNG key, and other arrays unchanged."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _digests(state: TrainState) -> dict[str, str]:
    """Returns the digest of each part; raises a DivergedError if the student is not finite."""
    raw = jax.tree.map(_raw, state)
    sums = digests.leaf_sums(raw)
    for part in (sums.params, sums.batch_stats, sums.ema):
        for path, (*_, finite) in jax.tree_util.tree_leaves_with_path(part):
            if not finite:
                raise errors.DivergedError(
                    f"parameter {jax.tree_util.keystr(path)} is not finite at step {state.step}"
                )
    parts = {name: digests.combine(getattr(raw, name), getattr(sums, name)) for name in _PARTS}
    return parts | {"student": digests.combine(raw.student, sums.student)}
