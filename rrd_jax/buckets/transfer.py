"""Objects: reading, writing, and copies of folders between a bucket and this machine."""

import base64
import contextlib
import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

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


def upload(source: pathlib.Path, target: Any, *, last: str = "") -> None:
    """Copies a file, or the files of a folder and its subfolders, to a bucket.

    Args:
      source: the file or folder.
      target: its path in the bucket.
      last: name of a file in the folder that is copied when all others are complete.
    """
    if source.is_file():
        return _upload_file(source, target)
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    for is_last in (False, True):
        batch = [path for path in files if (path == source / last) == is_last]
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


class Entry(NamedTuple):
    """An object in a folder of a bucket.

    Attributes:
      size: size in bytes.
      version: text that changes with the content.
      md5: hexadecimal digest of the content; "" if the server does not know it.
      time: time of the last write, in seconds since the epoch; 0 if unknown.
    """

    size: int
    version: str
    md5: str
    time: float = 0.0


def entries(folder: Any, *, recursive: bool = True) -> dict[str, Entry]:
    """Returns the objects in a folder and its subfolders, by their names in the folder.

    An object itself has the name "". A folder that does not exist is empty.

    Args:
      folder: the folder in a bucket.
      recursive: False to omit the subfolders.
    """
    root = str(folder).partition("://")[2]
    try:
        if recursive:
            infos = _filesystem(folder).find(str(folder), detail=True)
        else:
            listed = _filesystem(folder).ls(str(folder), detail=True)
            infos = {info["name"]: info for info in listed if info["type"] == "file"}
    except FileNotFoundError:
        return {}
    # Objects whose names end with a slash stand for empty folders.
    return {
        name.removeprefix(root).strip("/"): _entry(info)
        for name, info in infos.items()
        if not name.endswith("/")
    }


def _entry(info: dict[str, Any]) -> Entry:
    tag = str(info.get("ETag", "")).strip('"')
    # The ETag of an object of s3:// that was written in one part is its digest.
    md5 = tag if re.fullmatch(r"[0-9a-f]{32}", tag) else ""
    if encoded := info.get("md5Hash"):
        md5 = base64.b64decode(encoded).hex()
    version = md5 or str(info.get("crc32c") or info.get("etag") or tag)
    written = info.get("LastModified") or info.get("mtime")
    return Entry(info["size"], version, md5, written.timestamp() if written else 0.0)


def _sizes(source: Any) -> dict[str, int]:
    return {name: entry.size for name, entry in entries(source).items()}


def download_file(
    source: Any,
    target: pathlib.Path,
    entry: Entry,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Copies an object to a file of this machine, which appears when it is complete.

    Args:
      source: path of the object.
      target: path of the file.
      entry: the object, as listed.
      progress: called with the number of bytes after each part.

    Raises:
      BucketError: the copy has another size or digest than the object had, or the object has
        changed.
      OSError: the file cannot be written.
    """
    _download_file(source, target, entry.size, entry.md5, progress)
    # Parts of a large object are read one after the other.
    if not entry.md5:
        current = entries(source).get("")
        if current is None or current[:2] != entry[:2]:
            target.unlink()
            raise _changed(source)


def _download_file(
    source: Any,
    target: pathlib.Path,
    size: int,
    md5: str = "",
    progress: Callable[[int], None] | None = None,
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part, digest = (
        target.with_name(f"{target.name}.{os.getpid()}.part"),
        hashlib.md5(usedforsecurity=False),
    )
    try:
        with part.open("wb") as file:
            for start in range(0, size, _PART):
                end = min(start + _PART, size)
                content = _filesystem(source).cat_file(str(source), start=start, end=end)
                digest.update(content)
                file.write(content)
                if progress:
                    progress(len(content))
        if part.stat().st_size != size or (md5 and digest.hexdigest() != md5):
            raise _changed(source)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def copying(
    source: Any,
    target: pathlib.Path,
    remedy: str = "set XDG_CACHE_HOME to a folder on a larger disk",
) -> Iterator[None]:
    """Turns errors of copies to this machine into errors of one line.

    Args:
      source: the folder in the bucket, for messages.
      target: the folder on this machine, for messages.
      remedy: what helps besides free disk space, for messages.

    Raises:
      BucketError: an object was deleted inside the `with` block.
      DiskError: a file could not be written inside the `with` block.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise errors.BucketError(
            f"an object of {source} was deleted while it was copied ({error}); run the same command"
            " again"
        ) from error
    except OSError as error:
        raise errors.DiskError(
            f"{source} cannot be copied to {target} ({error.strerror or error}); free disk space,"
            f" or {remedy}"
        ) from error


def _changed(source: Any) -> errors.BucketError:
    return errors.BucketError(
        f"{source} has changed while it was copied; run the same command again"
    )


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
