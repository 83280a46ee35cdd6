"""Local folders for files that cannot be written in a bucket, and their copies in the bucket."""

import os
import pathlib
from typing import Any

from rrd_jax import deferred
from rrd_jax.buckets import locations, transfer

futures = deferred.Library("concurrent.futures")


def local(folder: Any) -> pathlib.Path:
    """Returns the scratch folder of a folder in a bucket; a folder on this machine is unchanged.

    Scratch folders are kept between starts, in XDG_CACHE_HOME or ~/.cache.
    """
    if not locations.is_bucket(folder):
        return folder
    return cache("buckets", folder)


def cache(kind: str, folder: Any) -> pathlib.Path:
    """Returns the folder on this machine for files of one kind that belong to a bucket's folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    scheme, bucket, key = locations.parse(str(folder))
    return pathlib.Path(home, "rrd_jax", kind, scheme, bucket, key)


class Mirror:
    """The copies of a scratch folder's files in a bucket, which a thread updates.

    Args:
      source: the scratch folder.
      target: the folder in the bucket.
    """

    def __init__(self, source: pathlib.Path, target: Any):
        self._source, self._target = source, target
        self._sizes: dict[pathlib.Path, int] = {}
        self._pool = futures.ThreadPoolExecutor(1, "upload")
        self._pending: Any = None

    def update(self) -> None:
        """Starts to copy the files that have grown since the last copy."""
        if self._pending is None or self._pending.done():
            self.check()
            self._pending = self._pool.submit(self._copy)

    def check(self) -> None:
        """Raises the error of a copy that has failed."""
        if self._pending is not None and self._pending.done():
            self._pending.result()

    def close(self) -> None:
        """Copies the last changes, and ends the thread."""
        if self._pending is not None:
            self._pending.result()
        self._copy()
        self._pool.shutdown()

    def _copy(self) -> None:
        for path in sorted(self._source.rglob("*")):
            if path.is_file() and self._sizes.get(path) != (size := path.stat().st_size):
                transfer.upload(path, self._target / path.relative_to(self._source).as_posix())
                self._sizes[path] = size
