"""Workdirs: locking, and comparison of a resumed run's config with the stored one."""

import contextlib
import errno
import fcntl
import os
import pathlib
import re
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import IO, Any, NamedTuple

from rrd_jax import __version__, buckets, checkpoints, errors, parallel, user_paths
from rrd_jax.run_folder import atomic_write, jax_settings, provenance
from rrd_jax.run_folder.config_fields import flatten
from rrd_jax.terminal import console, file_lock, interrupts, runtime_errors

# Error numbers of file systems without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
# The key of config.json that holds provenance instead of a config field.
_STARTS = "starts"


class Claim(NamedTuple):
    """A locked workdir.

    Attributes:
      previous: the config of the previous start; None for the first start, and in all processes
        except the first.
      confirm: stores the config of a resumed run in the workdir. Until then config.json describes
        the previous start, so that a start that is refused changes nothing.
    """

    previous: dict[str, Any] | None
    confirm: Callable[[], None]


def check_reachable(folder: pathlib.Path) -> None:
    """Checks a workdir in a bucket before anything is read; a local workdir is not checked.

    Raises:
      UnavailableError: the library of the bucket is not installed.
      InputError: the bucket does not exist, or the workdir is the bucket itself.
      BucketError: the bucket cannot be reached or accessed.
    """
    if not buckets.is_bucket(folder):
        return
    if not buckets.parse(str(folder)).key:
        raise errors.InputError(
            f"workdir {folder} is a whole bucket; name a folder in the bucket, such as {folder}/run"
        )
    if buckets.parse(str(folder)).scheme == "s3" and parallel.process_share() != (0, 1):
        raise errors.InputError(
            f"workdir {folder} cannot be written by several processes, because Orbax does not write"
            " to s3://; use gs:// or a shared folder"
        )
    buckets.check(folder)


@contextlib.contextmanager
def claim(
    folder: pathlib.Path,
    config: dict[str, Any],
    *,
    free: Collection[str],
    growing: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Iterator[Claim]:
    """Locks a workdir for one run, and stores the config of a new run in the workdir.

    Args:
      folder: the workdir; created if missing.
      config: nested dictionaries of JSON values.
      free: fields that may differ from those of the run's first start, such as "data.workers".
      growing: fields that may increase between starts, such as "train.epochs".
      defaults: nested like config, the values of fields that did not exist at the first start.

    Raises:
      DiskError: the workdir cannot be written.
      InputError: another process uses the workdir, the workdir has checkpoints of another config,
        it is not a folder, or not all processes see it.
    """
    with contextlib.ExitStack() as locks:
        if buckets.is_bucket(folder):
            locks.enter_context(buckets.patient(console.warn))
        claimed = parallel.main_first(
            lambda: (
                _claim(folder, config, free, growing, defaults or {}, locks)
                if parallel.is_main()
                else Claim(None, lambda: None)
            )
        )
        parallel.check_shared(
            folder, "pass a --workdir on a disk that all hosts share, or in a bucket (gs://)"
        )
        yield claimed


def read_fields(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the config that a run folder stores; None if it is missing or damaged."""
    try:
        return _read_config(folder / "config.json")[0]
    except (OSError, errors.InputError):
        return None


def recorded_fields(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the config whose values a start in a workdir keeps for fields that are "auto".

    Args:
      folder: the workdir of a job.

    Returns:
      The config of the previous start; None unless a run of the job, such as its teacher's in a
      subfolder, has a checkpoint.

    Raises:
      InputError: config.json is damaged or cannot be read.
    """
    path = folder / "config.json"
    steps = (step for home in ("", "*/") for step in folder.glob(f"{home}checkpoints/[0-9]*"))
    try:
        return _read_config(path)[0] if path.is_file() and any(steps) else None
    except OSError as error:
        raise unusable_error(folder, error) from error


def _claim(
    folder: pathlib.Path,
    config: dict[str, Any],
    free: Collection[str],
    growing: Collection[str],
    defaults: Mapping[str, Any],
    locks: contextlib.ExitStack,
) -> Claim:
    path = folder / "config.json"
    previous, starts, start = None, {}, provenance.describe()

    def store() -> None:
        first = starts.get("first", start)
        atomic_write.write_json(path, config | {_STARTS: {"first": first, "latest": start}})

    try:
        meta = checkpoints.read_meta(folder / "checkpoints")
        if meta and "epoch" not in meta:
            raise errors.InputError(
                f"workdir {folder} holds a converted network, not a run; pass another --workdir"
            )
        _check_outside(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _lock(folder, locks)
        has_steps = any((folder / "checkpoints").glob("[0-9]*"))
        if has_steps and not path.exists():
            console.warn(
                f"{folder} has checkpoints, but no config.json: its run is resumed with the current"
                " config, which cannot be compared with that of the first start"
            )
        if path.exists() and has_steps:
            previous, starts = _read_config(path)
            rules = _Rules(free, growing, flatten(defaults))
            _check_same(folder, previous, config, rules, starts)
            latest = starts.get("latest")
            settings = latest.get("settings") if isinstance(latest, dict) else None
            jax_settings.check(folder, settings or {}, start["settings"])
        else:
            store()
    except (OSError, ValueError) as error:
        # A path that contains a null byte raises a ValueError.
        if isinstance(error, errors.InputError):
            raise
        raise unusable_error(folder, error) from error
    return Claim(previous, store if previous is not None else lambda: None)


def _check_outside(folder: pathlib.Path) -> None:
    """Raises an InputError for a workdir inside the checkpoints of a run."""
    path = folder.absolute()
    for parent in (path, *path.parents):
        if parent.name == "checkpoints" and checkpoints.read_meta(parent) is not None:
            raise errors.InputError(
                f"workdir {folder} is inside the checkpoints of a run; pass"
                f" --workdir={parent.parent} to resume this run, or another --workdir for a new run"
            )


def unusable_error(folder: pathlib.Path, error: OSError | ValueError) -> errors.InputError:
    """Returns the error for a workdir that cannot be created or written, with a remedy."""
    if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
        # filename2 is the target of a failed rename.
        path = pathlib.Path(error.filename2 or error.filename or folder)
        existing = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
        form = "a folder" if existing.is_dir() else "a file"
        reason = f"{existing} is {form}; remove it, or pass another --workdir"
    else:
        reason = f"{getattr(error, 'strerror', None) or error}; pass another --workdir"
    kind = errors.DiskError if runtime_errors.is_disk_error(error) else errors.InputError
    return kind(f"workdir {str(folder)!r} cannot be used: {reason}")


def _lock(folder: pathlib.Path, locks: contextlib.ExitStack) -> None:
    """Locks the folder until `locks` closes or the process ends."""
    if buckets.is_bucket(folder):
        locks.enter_context(buckets.leases.hold(folder, _wait_for_lease))
        return
    file = locks.enter_context((folder / "lock").open("a+", errors="replace"))
    try:
        _acquire(file)
    except BlockingIOError as error:
        file.seek(0)
        raise errors.InUseError(
            f"workdir {folder} is in use by {file.read(200).strip() or 'another process'}; pass"
            " another --workdir, or wait until this run ends"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        console.warn(
            f"workdir {folder} cannot be locked ({error.strerror}); make sure that no other run"
            " uses it at the same time"
        )
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()


def _wait_for_lease(description: str) -> None:
    console.progress("workdir", [description])
    interrupts.check()


def _acquire(file: IO[str]) -> None:
    """Acquires the exclusive lock of a file, or raises a BlockingIOError after 0.1 seconds.

    The retries are necessary because `rrd_jax.runs` holds a shared lock for a few microseconds to
    determine whether a run is active.
    """
    for _ in range(5):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.02)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def exclusive(path: pathlib.Path, stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Waits for a lock and holds it, so that only one run computes a shared result.

    Nothing is locked if the folder is not writable, or its file system has no locks.

    Args:
      path: the lock file; created if missing.
      stop: polled while waiting, unless the run has several processes; True stops.

    Raises:
      PreemptedError: `stop` returned True.
    """
    # The lease of a workdir in a bucket keeps other jobs out.
    if buckets.is_bucket(path):
        yield
        return
    may_stop = parallel.process_share() == (0, 1)

    def wait() -> None:
        console.progress("teacher", ["waiting for another run that computes the cache"])
        if may_stop and stop():
            raise interrupts.error(
                interrupts.received(),
                " while waiting for another run to compute the teacher cache; run the same command"
                " again to continue",
            )

    with contextlib.ExitStack() as locks:
        parallel.main_first(
            lambda: (
                locks.enter_context(file_lock.exclusive(path, wait)) if parallel.is_main() else None
            )
        )
        yield


class _Rules:
    """The permitted differences between the configs of two starts.

    Args:
      free: see `claim`.
      growing: see `claim`.
      defaults: values of fields that did not exist at the previous start, by dotted path.
    """

    def __init__(self, free: Collection[str], growing: Collection[str], defaults: dict[str, Any]):
        self._free, self._growing, self._defaults = free, growing, defaults

    def default(self, field: str) -> Any:
        """Returns the value of a field that a config lacks."""
        return self._defaults.get(_bare(field))

    def allow(self, field: str, old: Any, new: Any) -> bool:
        """Returns True if a field may change from one value to another."""
        numbers = all(isinstance(value, int | float) for value in (old, new))
        return self.is_free(field) or (_bare(field) in self._growing and numbers and new > old)

    def is_free(self, field: str) -> bool:
        """Returns True if a field may change to any value."""
        return _bare(field) in self._free


def _bare(field: str) -> str:
    """Returns the path without indices: teacher.model for teacher[0].model."""
    return re.sub(r"\[\d+\]", "", field)


def _check_same(
    folder: pathlib.Path,
    old: dict[str, Any],
    new: dict[str, Any],
    rules: _Rules,
    starts: dict[str, Any],
) -> None:
    """Raises an InputError if fields differ that must not; logs permitted differences."""
    old, new = flatten(old), flatten(new)
    conflicts, changes, additions = [], [], []
    for field in sorted(old | new):
        old_value, new_value = (fields.get(field, rules.default(field)) for fields in (old, new))
        old_text, new_text = (_shorten(fields.get(field, "absent")) for fields in (old, new))
        if old_value == new_value:
            if field not in old:
                additions.append(f"{field} {new_text}")
        elif field not in old and rules.is_free(field):
            # A field without effect on results, which the earlier version did not have.
            continue
        elif rules.allow(field, old_value, new_value):
            changes.append(f"{field} {old_text} -> {new_text}")
        else:
            conflicts.append(f"{field} is {new_text}, stored {old_text}")
    if conflicts:
        raise errors.InputError(
            f"workdir {folder} holds a run of another config ({_join(conflicts)})"
            f"{_version_clause(starts)}; pass another --workdir, or the stored values to resume"
        )
    if changes:
        console.note(f"resuming {folder} with changed fields: {_join(changes)}")
    if additions:
        console.note(
            f"{folder} was created by a version without some fields; using the values of that"
            f" version: {_join(additions)}"
        )


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _join(parts: list[str]) -> str:
    """Joins at most eight parts, to keep messages short."""
    more = f"; and {len(parts) - 8} more" if len(parts) > 8 else ""
    return "; ".join(parts[:8]) + more


def _version_clause(starts: dict[str, Any]) -> str:
    """Returns a clause with the version that wrote the folder; "" for this version."""
    latest = starts.get("latest")
    version = latest.get("version") if isinstance(latest, dict) else None
    if version in (None, __version__):
        return ""
    return f", written by rrd_jax {version} (this is {__version__})"


def _read_config(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the config fields that a folder stores, and the provenance of its starts."""
    try:
        content = user_paths.read_json(path)
        if not isinstance(content, dict):
            raise ValueError(f"it contains {_shorten(content)} instead of fields")
    except ValueError as error:
        raise errors.InputError(
            f"{path} is damaged ({error}); delete it to resume with the current config"
        ) from error
    starts = content.pop(_STARTS, {})
    return content, starts if isinstance(starts, dict) else {}
