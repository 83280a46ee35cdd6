"""Objects: reading, writing, and copies of folders between a bucket and this machine."""

import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from rrd_jax import deferred, errors
from rrd_jax.buckets import filesystems, leases, locations

futures = deferred.Library("concurrent.futures")

# The number of objects that are copied at the same time.
_THREADS = 8
# The size of the parts in which a large object is copied, in bytes.
_PART = 2**24


def check(path: Any) -> None:
    """Checks that a bucket exists and can be listed; takes at most `patience.STARTING` seconds.

    Args:
      path: a path in the bucket.

    Raises:
      UnavailableError: the library of the scheme is not installed.
      InputError: the bucket does not exist.
      BucketError: the bucket cannot be reached or accessed.
    """
    location = locations.parse(str(path))
    locations.require(location)
    filesystem = filesystems.open_filesystem(location.scheme)
    try:
        if location.scheme == "gs":
            filesystem.call("GET", "b/{}/o", location.bucket, maxResults=1, prefix=location.key)
        else:
            filesystem.call_s3(
                "list_objects_v2", Bucket=location.bucket, MaxKeys=1, Prefix=location.key
            )
    except FileNotFoundError as error:
        raise errors.InputError(
            f"the bucket {location._replace(key='').url} does not exist; create it, or correct the"
            " name"
        ) from error


def read(path: Any) -> bytes:
    """Returns the content of an object; raises a FileNotFoundError if it is missing."""
    return _filesystem(path).cat_file(str(path))


def write(path: Any, content: bytes) -> None:
    """Writes an object atomically; see `leases.check`."""
    leases.check()
    _filesystem(path).pipe_file(str(path), content)


def delete(path: Any) -> None:
    """Deletes an object, or a folder with its content, if it exists; see `leases.check`."""
    leases.check()
    try:
        _filesystem(path).rm(str(path), recursive=True)
    except FileNotFoundError:
        return


def move(source: Any, target: Any) -> None:
    """Renames a folder; one in a bucket is copied by the server and deleted."""
    if not locations.is_bucket(source):
        source.rename(target)
        return
    leases.check()
    _filesystem(source).copy(str(source), str(target), recursive=True)
    delete(source)


def upload(source: pathlib.Path, target: Any, *, last: tuple[str, ...] = ()) -> None:
    """Copies a file, or the files of a folder and its subfolders, to a bucket.

    Args:
      source: the file or folder.
      target: its path in the bucket.
      last: names of files that are copied after all others, such as a marker of completeness.
    """
    if source.is_file():
        return _upload_file(source, target)
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    for is_last in (False, True):
        batch = [path for path in files if (path.name in last) == is_last]
        copies = [(path, target / path.relative_to(source).as_posix()) for path in batch]
        list(_in_parallel(lambda pair: _upload_file(*pair), copies))


def _upload_file(source: pathlib.Path, target: Any) -> None:
    if source.stat().st_size <= _PART:
        return write(target, source.read_bytes())
    leases.check()
    with source.open("rb") as file, _filesystem(target).open(str(target), "wb") as copy:
        while part := file.read(_PART):
            copy.write(part)


def download(
    source: Any, folder: pathlib.Path, progress: Callable[[int, int], None] | None = None
) -> None:
    """Copies an object, or a folder of a bucket, to a folder of this machine.

    Files that exist with the same size are kept, so that an interrupted copy can be continued.

    Args:
      source: the path of the object or folder.
      folder: the folder to write to, created if missing; an object keeps its name.
      progress: called with the bytes that are copied and the bytes of all files.

    Raises:
      FileNotFoundError: the source does not exist.
      OSError: the folder cannot be written.
    """
    sizes = _sizes(source)
    if not sizes:
        raise FileNotFoundError(f"{source} does not exist")
    total, copied = sum(sizes.values()), 0

    def copy(name: str) -> int:
        # The name of the object itself is "".
        target = folder / (name or source.name)
        if not (target.exists() and target.stat().st_size == sizes[name]):
            _download_file(source / name if name else source, target, sizes[name])
        return sizes[name]

    for size in _in_parallel(copy, sorted(sizes)):
        copied += size
        if progress:
            progress(copied, total)


def _sizes(source: Any) -> dict[str, int]:
    """Returns the sizes of the objects in a folder, in bytes, by their names in the folder."""
    infos = _filesystem(source).find(str(source), detail=True)
    root = str(source).partition("://")[2]
    # Objects whose names end with a slash stand for empty folders.
    return {
        name.removeprefix(root).strip("/"): info["size"]
        for name, info in infos.items()
        if not name.endswith("/")
    }


def _download_file(source: Any, target: pathlib.Path, size: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            for start in range(0, size, _PART):
                end = min(start + _PART, size)
                file.write(_filesystem(source).cat_file(str(source), start=start, end=end))
        if part.stat().st_size != size:
            raise errors.BucketError(
                f"{source} has changed while it was copied; run the same command again"
            )
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _in_parallel(function: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
    """Yields the results of a function as they complete; an error cancels the remaining calls."""
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        calls = [pool.submit(function, item) for item in items]
        try:
            for call in futures.as_completed(calls):
                yield call.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _filesystem(path: Any) -> Any:
    location = locations.parse(str(path))
    locations.require(location)
    return filesystems.open_filesystem(location.scheme)
