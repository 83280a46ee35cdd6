"""The number of attempts at a run, and the reason of its failure, in files of the run's folder.

Both belong to a launch, which is one start of the command with its workers: the next launch retries
failed runs.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.study import records
from rrd_jax import checkpoints, errors
from rrd_jax.run_folder import atomic_write

_STARTS = "attempts.json"
_DEATHS = 3  # A run has failed after this many deaths of workers since the same checkpoint.


@contextlib.contextmanager
def counted(
    folder: pathlib.Path, launch: str, teachers: Sequence[pathlib.Path] = ()
) -> Iterator[None]:
    """Counts a start of a run or teacher; an exception or a normal end is not a death.

    Args:
      folder: of the run, which this process holds.
      launch: the name of the launch.
      teachers: folders of the teachers that are trained for the run.

    Raises:
      InputError: too many starts in this launch died without a new checkpoint.
    """
    path, step = folder / _STARTS, sum(map(_newest, (folder, *teachers)))
    before = _read(path)
    same = (before.get("launch"), before.get("step")) == (launch, step)
    deaths = before.get("deaths", 0) if same else 0
    if deaths >= _DEATHS:
        raise errors.InputError(
            f"the process that made it died {deaths} times without a new checkpoint; what it said"
            f" is in {folder.parent.parent / 'logs'}, or that of the scheduler"
        )
    starts = before.get("starts", 0)
    counts = {"launch": launch, "step": step, "starts": starts + 1}
    atomic_write.write_json(
        path, counts | {"deaths": deaths + 1}
    )  # unless something else comes of it
    try:
        yield
    except errors.LostError:
        raise
    except BaseException as error:
        if isinstance(error, errors.InUseError):  # a teacher of it, which is waited for
            counts["starts"] = starts
        with contextlib.suppress(OSError):  # the disk may be full
            atomic_write.write_json(path, counts | {"deaths": deaths})
        raise
    atomic_write.write_json(path, counts | {"deaths": 0})


def failure(folder: pathlib.Path, launch: str) -> str:
    """Returns why a run or teacher failed in a launch; "" if it did not."""
    found = _read(folder / records.FAILED)
    return str(found.get("error", "")) if found.get("launch") == launch else ""


def keep_failure(folder: pathlib.Path, launch: str, error: Exception) -> None:
    """Records why a run or teacher failed."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write.write_json(folder / records.FAILED, {"launch": launch, "error": describe(error)})


def forget_failure(folder: pathlib.Path) -> None:
    """Deletes the record of a failure."""
    (folder / records.FAILED).unlink(missing_ok=True)


def describe(error: Exception) -> str:
    """An error in a line, with its kind where it is none of those that say the way out."""
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


def _read(path: pathlib.Path) -> dict[str, Any]:
    """A small file of JSON; empty where there is none, or nothing that is ours."""
    try:
        found = errors.read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
