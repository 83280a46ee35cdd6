"""What is known of how often a run was tried, and why it failed; in small files of its folder.

Both belong to a launch, which is one start of the command with its workers: the next launch tries
again what has failed.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.study import records
from rrd_jax import checkpoints, errors
from rrd_jax.run_folder import atomic_write

_STARTS = "attempts.json"
_DEATHS = 3  # of workers since the same checkpoint, after which a run counts as failed


@contextlib.contextmanager
def counted(
    folder: pathlib.Path, launch: str, teachers: Sequence[pathlib.Path] = ()
) -> Iterator[None]:
    """Counts a start of a run or teacher; what ends in an orderly way was no death.

    Args:
      folder: of the run, which is claimed.
      launch: a name.
      teachers: folders of those that are trained on the way.

    Raises:
      InputError: too many starts in this launch have died without a new checkpoint.
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
    """Why a run or teacher has failed in a launch; "" where it has not."""
    found = _read(folder / records.FAILED)
    return str(found.get("error", "")) if found.get("launch") == launch else ""


def keep_failure(folder: pathlib.Path, launch: str, error: Exception) -> None:
    """Writes down why a run or teacher has failed."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write.write_json(folder / records.FAILED, {"launch": launch, "error": told(error)})


def forget_failure(folder: pathlib.Path) -> None:
    """What has come to its end has not failed."""
    (folder / records.FAILED).unlink(missing_ok=True)


def told(error: Exception) -> str:
    """An error in a line, with its kind where it is none of those that say the way out."""
    text = " ".join(str(error).split())
    if isinstance(error, errors.InputError | errors.DivergedError | OSError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_finished(folder: pathlib.Path, epochs: int) -> bool:
    """Whether the checkpoint of a run's last epoch is there."""
    meta = checkpoints.read_meta(folder / "checkpoints")
    return meta is not None and meta.get("epoch", 0) >= epochs


def _newest(folder: pathlib.Path) -> int:
    """The step of the newest checkpoint; 0 for none."""
    names = (path.name for path in (folder / "checkpoints").glob("[0-9]*"))
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _read(path: pathlib.Path) -> dict[str, Any]:
    """A small file of JSON; empty where there is none, or nothing that is ours."""
    try:
        found = errors.read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
