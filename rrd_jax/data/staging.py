"""Copies of data sets in buckets on this machine.

A copy is made once, and is shared by all runs of the machine. Each start lists the bucket, and
copies only the objects that are missing or have changed.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import tqdm

from rrd_jax import buckets, errors, user_paths
from rrd_jax.terminal import console, file_lock, interrupts

# Number of objects that are copied at the same time.
_THREADS = 16
# Seconds between two writes of the list of copied files, and between two progress lines of a log.
_SAVE_INTERVAL, _REPORT_INTERVAL = 5.0, 60.0
_LIST, _LOCK = ".rrd_jax_copies.json", ".rrd_jax_copies.lock"
# The share of the disk that remains free.
_RESERVE = 0.01
_REMEDY = "set data.scratch to another folder; files that were copied are kept"

Selection = Callable[[str], bool]


def local_folder(folder: Any, scratch: str) -> pathlib.Path:
    """Returns the folder on this machine for copies from a folder in a bucket.

    Args:
      folder: the folder in the bucket.
      scratch: data.scratch; "" for the user's cache folder.
    """
    scheme, bucket, key = buckets.parse(str(folder))
    if scratch:
        return pathlib.Path(user_paths.expanded(scratch), scheme, bucket, key).absolute()
    cache = buckets.local(buckets.path(f"{scheme}://{bucket}")).parents[2]
    return cache / "data" / scheme / bucket / key


def copy(
    folder: Any, scratch: str, selection: Selection, required: Collection[str] = ()
) -> pathlib.Path:
    """Copies the selected objects below a folder in a bucket; returns the folder of the copies.

    All other files in the folder of the copies are deleted, unless they are copies of objects.

    Args:
      folder: the folder in the bucket.
      scratch: data.scratch.
      selection: returns True for names, relative to the folder, of objects to copy.
      required: names of objects and folders that must exist.
    """
    buckets.check(folder)
    target = local_folder(folder, scratch)
    with file_lock.exclusive(target / _LOCK, _waiting(target)):
        listed = buckets.entries(folder)
        selected = {name: entry for name, entry in listed.items() if name and selection(name)}
        if not selected:
            raise errors.InputError(
                f"{folder} has no files{' of that name' if listed else ''}; correct the path, or"
                " copy the data to it"
            )
        _check_required(folder, listed, required)
        _check_names(folder, selected)
        copies = _Copies(target)
        copies.keep_only(listed)
        missing = {name: entry for name, entry in selected.items() if not copies.has(name, entry)}
        copies.save()
        if missing:
            _check_space(folder, target, missing)
            _copy_all(folder, target, missing, copies)
    return target


def _waiting(target: pathlib.Path) -> Callable[[], None]:
    """Returns a function that is called while another process copies to a folder."""
    start = time.monotonic()
    reported = False

    def wait() -> None:
        nonlocal reported
        interrupts.check()
        if not reported and time.monotonic() - start > 2:
            reported = True
            console.say(f"waiting for another process that copies data to {target}")

    return wait


class _Copies:
    """The list of the files that were copied to a folder, with the versions of their objects."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        content = user_paths.read_object(folder / _LIST) or {}
        self._rows: dict[str, Any] = {
            name: row for name, row in content.items() if isinstance(row, list) and len(row) == 3
        }

    def has(self, name: str, entry: buckets.Entry) -> bool:
        """Returns True if the copy of an object is complete and unchanged."""
        with contextlib.suppress(OSError):
            path = self._folder / name
            status = path.stat()
            if status.st_size != entry.size:
                return False
            if self._rows.get(name) == [entry.version, status.st_size, status.st_mtime_ns]:
                return True
            # A killed program has not written the list.
            if entry.md5 and _md5(path) == entry.md5:
                self.add(name, entry)
                return True
        return False

    def add(self, name: str, entry: buckets.Entry) -> None:
        """Adds a file that was copied."""
        status = (self._folder / name).stat()
        self._rows[name] = [entry.version, status.st_size, status.st_mtime_ns]

    def keep_only(self, names: Mapping[str, Any]) -> None:
        """Deletes all files that are not copies of objects, except hidden ones."""
        for place, folders, files in os.walk(self._folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for path in (pathlib.Path(place, name) for name in files if not name.startswith(".")):
                if path.relative_to(self._folder).as_posix() not in names:
                    path.unlink(missing_ok=True)
        self._rows = {name: row for name, row in self._rows.items() if name in names}

    def save(self) -> None:
        """Writes the list."""
        part = self._folder / f"{_LIST}.part"
        # Without the list, the next start computes digests of the files.
        with contextlib.suppress(OSError):
            part.write_text(json.dumps(self._rows))
            part.replace(self._folder / _LIST)


def _md5(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _check_required(folder: Any, listed: Mapping[str, Any], required: Collection[str]) -> None:
    """Raises an InputError if a name is neither an object nor a folder."""
    unknown = [name for name in required if name not in listed]
    if not unknown:
        return
    folders = {str(folder) for name in listed for folder in pathlib.PurePosixPath(name).parents}
    if absent := [name for name in unknown if name not in folders]:
        more = f" and {len(absent) - 1:,} more" if len(absent) > 1 else ""
        raise errors.InputError(
            f"there is no {errors.printable(f'{folder}/{absent[0]}')}{more}; correct the name, or"
            " copy the missing files"
        )


def _check_names(folder: Any, names: Mapping[str, Any]) -> None:
    """Raises an InputError for an object whose name cannot be the path of a file."""
    for name in names:
        parts = name.split("/")
        is_folder = any("/".join(parts[:i]) in names for i in range(1, len(parts)))
        if {"", ".", ".."} & set(parts) or is_folder:
            raise errors.InputError(
                f"the object {errors.printable(f'{folder}/{name}')} cannot be copied to a file,"
                " because its name is no path, or also the name of a folder; rename the object"
            )


def _check_space(folder: Any, target: pathlib.Path, missing: Mapping[str, buckets.Entry]) -> None:
    with buckets.copying(folder, target, _REMEDY):
        target.mkdir(parents=True, exist_ok=True)
        usage = shutil.disk_usage(target)
    needed = sum(entry.size for entry in missing.values())
    replaced = 0
    for name in missing:
        with contextlib.suppress(OSError):
            replaced += (target / name).stat().st_size
    free = usage.free + replaced - _RESERVE * usage.total
    if needed > free:
        raise errors.DiskError(
            f"{_size(needed)} of {folder} must be copied to {target}, whose disk has"
            f" {_size(max(free, 0))} free; free disk space, or set data.scratch to a folder"
            " on a larger disk"
        )


def _size(count: float) -> str:
    """Formats a number of bytes."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"


def _copy_all(
    folder: Any, target: pathlib.Path, missing: Mapping[str, buckets.Entry], copies: _Copies
) -> None:
    """Copies objects in several threads; what was copied is kept if the program ends."""
    total = sum(entry.size for entry in missing.values())
    console.say(f"copying {len(missing):,} files ({_size(total)}) from {folder} to {target}")
    bar = tqdm.tqdm(
        total=total, desc="copying", unit="B", unit_scale=True, disable=None, leave=False
    )

    def progress(size: int) -> None:
        interrupts.check()
        bar.update(size)

    def run(name: str) -> str:
        interrupts.check()
        (target / name).unlink(missing_ok=True)
        buckets.download_file(folder / name, target / name, missing[name], progress)
        return name

    done, saved, reported = 0, time.monotonic(), time.monotonic()
    with (
        buckets.copying(folder, target, _REMEDY),
        bar,
        concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
    ):
        calls = [pool.submit(run, name) for name in sorted(missing)]
        try:
            for call in concurrent.futures.as_completed(calls):
                name = call.result()
                copies.add(name, missing[name])
                done += missing[name].size
                if time.monotonic() - saved > _SAVE_INTERVAL:
                    copies.save()
                    saved = time.monotonic()
                if bar.disable and time.monotonic() - reported > _REPORT_INTERVAL:
                    console.say(f"copied {_size(done)} of {_size(total)}")
                    reported = time.monotonic()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            copies.save()
