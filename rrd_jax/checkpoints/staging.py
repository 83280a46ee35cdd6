"""Checkpoints that Orbax cannot write or read in a bucket itself, and their local copies.

Orbax writes to gs:// itself, and marks a complete checkpoint by a file. A checkpoint of s3:// is
written to a scratch folder and uploaded; the same file, `storage.MARKER`, is uploaded last.
"""

import asyncio
import atexit
import functools
import pathlib
import shutil
import tempfile
import time
from typing import Any

from rrd_jax import buckets, deferred, errors
from rrd_jax.checkpoints import storage
from rrd_jax.checkpoints.storage import ocp

futures = deferred.Library("concurrent.futures")

# Seconds between two looks for a checkpoint that Orbax writes.
_POLL = 0.05


def is_staged(folder: Any) -> bool:
    """Returns True for a folder that Orbax can neither write nor read."""
    return buckets.is_bucket(folder) and buckets.parse(str(folder)).scheme == "s3"


def readable(folder: Any, step: int) -> Any:
    """Returns a folder with a step that Orbax can read: the folder itself, or a local copy.

    A copy is deleted at the end of the process.

    Args:
      folder: folder of the checkpoints.
      step: step of a complete checkpoint.

    Raises:
      FileNotFoundError: the checkpoint does not exist.
      BucketError: the bucket cannot be reached.
    """
    if not is_staged(folder):
        return folder
    marker = buckets.entries(folder / str(step), recursive=False).get(storage.MARKER)
    if marker is None:
        raise FileNotFoundError(f"{folder / str(step)} does not exist")
    return _copy(str(folder), step, marker.version)


# The student, its objectives and its teachers are read one after the other.
@functools.lru_cache(maxsize=8)
def _copy(folder: str, step: int, version: str) -> pathlib.Path:
    """Returns a copy of a checkpoint whose marker has a version."""
    del version
    copy = pathlib.Path(tempfile.mkdtemp(prefix="rrd_jax_"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    try:
        buckets.download(buckets.path(folder) / str(step), copy / str(step))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise errors.DiskError(
            f"checkpoint {folder}/{step} cannot be copied to {copy} ({storage.reason(error)}); free"
            " disk space, or set TMPDIR to a folder on a larger disk"
        ) from error
    return copy


@functools.cache
def path_class() -> type:
    """Returns the class with which Orbax writes checkpoints to gs:// while the lease is held.

    A job that has lost its lease does not complete a checkpoint: its marker is not written.
    """

    class LeasedPath(ocp.path.atomicity.CommitFileTemporaryPath):
        """A checkpoint whose creation and completion check the lease."""

        async def create(self) -> Any:
            await asyncio.to_thread(buckets.leases.check)
            return await super().create()

        async def finalize(self) -> None:
            await asyncio.to_thread(buckets.leases.check)
            await super().finalize()

    return LeasedPath


class Staging:
    """The scratch folder of a run's checkpoints, which a thread uploads.

    Args:
      remote: the folder of the checkpoints in a bucket. Complete checkpoints are downloaded.

    Raises:
      BucketError: the bucket cannot be reached.
      DiskError: the scratch folder cannot be written.
    """

    def __init__(self, remote: Any):
        self._remote, self.folder = remote, buckets.local(remote)
        self._pool = futures.ThreadPoolExecutor(1, "checkpoints")
        self._pending: Any = None
        try:
            # Another machine may have continued the run since the last start on this one.
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            for step in storage.steps(remote):
                buckets.download(remote / str(step), self.folder / str(step))
        except OSError as error:
            raise errors.DiskError(
                f"checkpoints of {remote} cannot be copied to {self.folder}"
                f" ({storage.reason(error)}); free disk space, or set XDG_CACHE_HOME to a folder on"
                " a larger disk"
            ) from error

    def upload(self, manager: Any, step: int) -> None:
        """Starts to upload a checkpoint that Orbax has started to write.

        Args:
          manager: Orbax's `CheckpointManager` of the folder.
          step: step of the checkpoint.
        """
        self._pending = self._pool.submit(self._upload, manager, step)

    def wait(self) -> None:
        """Waits for the last upload, and raises its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Waits for the last upload, ends the thread and deletes the local copies."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _upload(self, manager: Any, step: int) -> None:
        while step not in storage.steps(self.folder):
            if not manager.is_saving_in_progress():
                # The manager raises the error of a failed save.
                return
            time.sleep(_POLL)
        source, target = self.folder / str(step), self._remote / str(step)
        buckets.upload(source, target, last=storage.MARKER)
        remaining = {step, *storage.steps(self.folder)}
        for old in storage.steps(self._remote):
            if old not in remaining:
                # Without the marker, a folder whose deletion is interrupted is incomplete.
                buckets.delete(self._remote / str(old) / storage.MARKER)
                buckets.delete(self._remote / str(old))


def write(folder: Any, arrays: Any, meta: dict[str, Any], digests: dict[str, str]) -> None:
    """Writes a checkpoint with step 0 to a bucket; see `storage.write`."""
    local = buckets.local(folder)
    shutil.rmtree(local, ignore_errors=True)
    storage.write(local, arrays, meta, digests)
    buckets.upload(local / "0", folder / "0", last=storage.MARKER)
    shutil.rmtree(local, ignore_errors=True)
