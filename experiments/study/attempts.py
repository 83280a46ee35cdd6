"""Files in a run's folder that count the attempts and record the reason of a failure.

Both files belong to a launch, which is one start of the command with its workers: the next launch
retries failed runs.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence

from experiments.study import records
from rrd_jax import checkpoints, errors, user_paths
from rrd_jax.run_folder import atomic_write

_STARTS = "attempts.json"
# Number of worker deaths since the same checkpoint after which a run has failed.
_DEATHS = 3


@contextlib.contextmanager
def count_attempt(
    folder: pathlib.Path, launch: str, teachers: Sequence[pathlib.Path] = ()
) -> Iterator[None]:
    """Counts an attempt at a run or teacher; neither an exception nor a normal end is a death.

    Args:
      folder: the folder of the run, locked by this process.
      launch: the name of the launch.
      teachers: folders of the teachers that are trained for the run.

    Raises:
      InputError: too many attempts in this launch died without a new checkpoint.
    """
    path, step = folder / _STARTS, sum(map(_newest, (folder, *teachers)))
    before = user_paths.read_object(path) or {}
    is_repeated = (before.get("launch"), before.get("step")) == (launch, step)
    deaths = before.get("deaths", 0) if is_repeated else 0
    if deaths >= _DEATHS:
        raise errors.InputError(
            f"the worker process died {deaths} times without a new checkpoint; see its output in"
            f" {folder.parent.parent / 'logs'} or in the scheduler's log"
        )
    starts = before.get("starts", 0)
    counts = {"launch": launch, "step": step, "starts": starts + 1}
    # The attempt counts as a death until it ends in another way.
    atomic_write.write_json(path, counts | {"deaths": deaths + 1})
    try:
        yield
    except errors.LostError:
        raise
    except BaseException as error:
        # The run waits for a teacher that another worker trains; this attempt does not count.
        if isinstance(error, errors.InUseError):
            counts["starts"] = starts
        # The disk may be full.
        with contextlib.suppress(OSError):
            atomic_write.write_json(path, counts | {"deaths": deaths})
        raise
    atomic_write.write_json(path, counts | {"deaths": 0})


def failure(folder: pathlib.Path, launch: str) -> str:
    """Returns why a run or teacher failed in a launch; "" if it did not."""
    content = user_paths.read_object(folder / records.FAILED) or {}
    return str(content.get("error", "")) if content.get("launch") == launch else ""


def record_failure(folder: pathlib.Path, launch: str, error: Exception) -> None:
    """Records why a run or teacher failed."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write.write_json(folder / records.FAILED, {"launch": launch, "error": describe(error)})


def delete_failure(folder: pathlib.Path) -> None:
    """Deletes the record of a failure."""
    (folder / records.FAILED).unlink(missing_ok=True)


def describe(error: Exception) -> str:
    """Returns an error in one line, with its type unless the message is written for users."""
    text = " ".join(str(error).split())
    if isinstance(error, errors.InputError | errors.DivergedError | OSError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_finished(folder: pathlib.Path, epochs: int) -> bool:
    """Returns True if the checkpoint of a run's last epoch exists."""
    meta = checkpoints.read_meta(folder / "checkpoints")
    return meta is not None and meta.get("epoch", 0) >= epochs


def _newest(folder: pathlib.Path) -> int:
    """Returns the step of the newest checkpoint; 0 for none."""
    names = (path.name for path in (folder / "checkpoints").glob("[0-9]*"))
    return max((int(name) for name in names if name.isdecimal()), default=0)
