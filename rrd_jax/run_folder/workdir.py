"""The folder of a run: it belongs to one process at a time, and to one config."""

import contextlib
import errno
import fcntl
import os
import pathlib
import re
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import IO, Any

from rrd_jax import __version__, checkpoints, errors, parallel
from rrd_jax.run_folder import atomic_write, provenance
from rrd_jax.run_folder.config_fields import flatten
from rrd_jax.terminal import console, runtime_errors

# Of file systems without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_POLL = 0.2  # seconds between two looks at a lock that others hold
_STARTS = "starts"  # the key of config.json that is no field


@contextlib.contextmanager
def claim(
    folder: pathlib.Path,
    config: dict[str, Any],
    *,
    free: Collection[str],
    growing: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, Any] | None]:
    """Holds a workdir for one run, and keeps its config in it.

    Args:
      folder: the workdir; it is made if need be.
      config: nested dictionaries of JSON values.
      free: fields that may differ from those of the run's first start, such as "data.workers".
      growing: fields that may be larger than at the start before, such as "train.epochs".
      defaults: nested like config: the values of fields that did not exist at the first start.

    Yields:
      The config of the start before; None for the first one, and in processes other than the first.

    Raises:
      DiskError: it cannot be written.
      InputError: another process holds it, it has checkpoints of another config, or is no folder.
    """
    with contextlib.ExitStack() as held:
        yield parallel.main_first(
            lambda: (
                _claim(folder, config, free, growing, defaults or {}, held)
                if parallel.is_main()
                else None
            )
        )


def read_fields(folder: pathlib.Path) -> dict[str, Any] | None:
    """The config that a run's folder keeps; None where there is none, or it is damaged."""
    try:
        return _read_config(folder / "config.json")[0]
    except (OSError, errors.InputError):
        return None


def _claim(
    folder: pathlib.Path,
    config: dict[str, Any],
    free: Collection[str],
    growing: Collection[str],
    defaults: Mapping[str, Any],
    held: contextlib.ExitStack,
) -> dict[str, Any] | None:
    path = folder / "config.json"
    before, starts = None, {}
    try:
        meta = checkpoints.read_meta(folder / "checkpoints")
        if meta and "epoch" not in meta:
            raise errors.InputError(
                f"workdir {folder} holds a converted network, and no run; pass another --workdir"
            )
        _check_outside(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _lock(folder, held)
        if path.exists() and any((folder / "checkpoints").glob("[0-9]*")):
            before, starts = _read_config(path)
            _check_same(folder, before, config, _Rules(free, growing, flatten(defaults)), starts)
        start = provenance.describe()
        starts = {"first": starts.get("first", start), "latest": start}
        atomic_write.write_json(path, config | {_STARTS: starts})
    except (OSError, ValueError) as error:  # ValueError of a path with a zero in it
        if isinstance(error, errors.InputError):
            raise
        raise _unusable(folder, error) from error
    return before


def _check_outside(folder: pathlib.Path) -> None:
    """Raises an InputError for a workdir in the checkpoints of a run, which it would garble."""
    place = folder.absolute()
    for above in (place, *place.parents):
        if above.name == "checkpoints" and checkpoints.read_meta(above) is not None:
            raise errors.InputError(
                f"workdir {folder} lies in the checkpoints of a run: {above.parent} goes on with"
                " it; for another run, pass another --workdir"
            )


def _unusable(folder: pathlib.Path, error: OSError | ValueError) -> errors.InputError:
    if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
        path = pathlib.Path(
            error.filename2 or error.filename or folder
        )  # 2: what was to be replaced
        there = next(place for place in (path, *path.parents) if os.path.lexists(place))
        what = "a folder" if there.is_dir() else "a file"
        reason = f"{there} is {what}; remove it, or pass another --workdir"
    else:
        reason = f"{getattr(error, 'strerror', None) or error}; pass another --workdir"
    kind = errors.DiskError if runtime_errors.is_of_disk(error) else errors.InputError
    return kind(f"workdir {str(folder)!r} cannot be used: {reason}")


def _lock(folder: pathlib.Path, held: contextlib.ExitStack) -> None:
    """Locks the folder until `held` closes or the process ends."""
    file = held.enter_context((folder / "lock").open("a+", errors="replace"))
    try:
        _take(file)
    except BlockingIOError as error:
        file.seek(0)
        raise errors.InUseError(
            f"workdir {folder} is in use by {file.read(200).strip() or 'another process'}; pass"
            " another --workdir, or wait for it"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        console.warn(
            f"workdir {folder} cannot be locked ({error.strerror}): see to it that no second run"
            " uses it"
        )
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()


def _take(file: IO[str]) -> None:
    """Takes the exclusive lock of a file, or raises a BlockingIOError after a tenth of a second.

    `rrd_jax.runs` holds a shared lock for some microseconds to find out whether a run is at work.
    """
    for _ in range(5):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.02)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def exclusive(path: pathlib.Path, stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Waits until no other run holds a lock, and holds it: what one makes, the next one finds.

    Nothing is locked where the folder cannot be written, or knows no locks.

    Args:
      path: of the lock's file; it is made.
      stop: whether to break off the wait; not asked where several processes make one run.

    Raises:
      PreemptedError: `stop` said so.
    """
    with contextlib.ExitStack() as held:
        parallel.main_first(lambda: _take_turn(path, stop, held) if parallel.is_main() else None)
        yield


def _take_turn(path: pathlib.Path, stop: Callable[[], bool], held: contextlib.ExitStack) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = held.enter_context(path.open("a"))
        asks = parallel.process_share() == (0, 1)
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                console.progress("teacher", ["another run shows it all views"])
                time.sleep(_POLL)
            if asks and stop():
                raise errors.PreemptedError(
                    "stopped by SIGTERM while another run showed the teacher all views; the same"
                    " command starts with that again"
                )


class _Rules:
    """What of a config may differ from the start before.

    Args:
      free: as `claim` has it.
      growing: as `claim` has it.
      defaults: flat; of fields that the start before did not have.
    """

    def __init__(self, free: Collection[str], growing: Collection[str], defaults: dict[str, Any]):
        self._free, self._growing, self._defaults = free, growing, defaults

    def default(self, field: str) -> Any:
        """Of a field that a config lacks."""
        return self._defaults.get(_bare(field))

    def allow(self, field: str, there: Any, here: Any) -> bool:
        """Whether a field may change so."""
        name = _bare(field)
        numbers = all(isinstance(value, int | float) for value in (there, here))
        return name in self._free or (name in self._growing and numbers and here > there)


def _bare(field: str) -> str:
    """teacher.model for teacher[0].model."""
    return re.sub(r"\[\d+\]", "", field)


def _check_same(
    folder: pathlib.Path,
    old: dict[str, Any],
    new: dict[str, Any],
    rules: _Rules,
    starts: dict[str, Any],
) -> None:
    """Raises an InputError if a field differs that may not, and says which do."""
    old, new = flatten(old), flatten(new)
    differing, changed, later = [], [], []
    for field in sorted(old | new):
        there, here = (fields.get(field, rules.default(field)) for fields in (old, new))
        shown = [_shown(fields.get(field, "absent")) for fields in (old, new)]
        if there == here:
            if field not in old:
                later.append(f"{field} {shown[1]}")
        elif rules.allow(field, there, here):
            changed.append("{} {}, before {}".format(field, *reversed(shown)))
        else:
            differing.append("{} {} there, {} here".format(field, *shown))
    if differing:
        raise errors.InputError(
            f"workdir {folder} holds a run of another config ({_listed(differing)})"
            f"{_by_version(starts)}: pass another --workdir, or the values it holds to go on with"
            " it"
        )
    if changed:
        console.note(f"{folder} goes on with {_listed(changed)}")
    if later:
        console.note(
            f"{folder} was begun by a version without some fields; they have their defaults:"
            f" {_listed(later)}"
        )


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _listed(parts: list[str]) -> str:
    """A few of many: a message is to be read."""
    more = f"; and {len(parts) - 8} more" if len(parts) > 8 else ""
    return "; ".join(parts[:8]) + more


def _by_version(starts: dict[str, Any]) -> str:
    """Which version wrote the folder, as a clause; "" for this one."""
    latest = starts.get("latest")
    version = latest.get("version") if isinstance(latest, dict) else None
    if version in (None, __version__):
        return ""
    return f", written by rrd_jax {version}, where this is {__version__}"


def _read_config(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that a folder keeps, and what is known of its starts."""
    try:
        content = errors.read_json(path)
        if not isinstance(content, dict):
            raise ValueError(f"it holds {_shown(content)}, and no fields")
    except ValueError as error:
        raise errors.InputError(
            f"{path} is damaged ({error}); delete it to go on with the config given now"
        ) from error
    starts = content.pop(_STARTS, {})
    return content, starts if isinstance(starts, dict) else {}
