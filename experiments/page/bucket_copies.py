"""Copies of what a page needs from a study or a run in a bucket."""

import concurrent.futures
import pathlib
import re
import shutil
from typing import Any

from rrd_jax import buckets, errors, user_paths
from rrd_jax.terminal import console

_THREADS = 16
# Checkpoints are read in the bucket, and only to measure a run.
_COPIED = re.compile(
    r"(.*/)?((study|config|model|results|failed)\.json|metrics\.jsonl|measures/\w+\.npz"
    r"|checkpoints/\d+/meta/metadata)"
)


def localize(text: str, marker: str) -> tuple[Any, pathlib.Path]:
    """Returns the path of a folder, and its copy if it is in a bucket.

    The copy is updated with each call. Measures that were computed for the copy are kept.

    Args:
      text: the folder of a study or run.
      marker: a file that the folder must have.

    Raises:
      InputError: the bucket or the file does not exist.
      BucketError: the bucket cannot be reached or accessed.
      DiskError: the copy cannot be written.
    """
    path = user_paths.path_of(text)
    if not buckets.is_bucket(path):
        return path, path
    buckets.check(path)
    entries = {name: x for name, x in buckets.entries(path).items() if _COPIED.fullmatch(name)}
    if marker not in entries:
        raise errors.InputError(
            f"{path} has no {marker}, which studies and runs write at their start; correct the path"
        )
    copy = buckets.cache("pages", path)
    console.progress("page", [f"copying {len(entries):,} files from {path}"])
    with buckets.copying(path, copy):
        for file in copy.rglob("*"):
            name = file.relative_to(copy).as_posix()
            if file.is_file() and "measures" not in file.parts and name not in entries:
                file.unlink()
        # The newest checkpoint is the one with the highest number.
        for step in copy.glob("**/checkpoints/*"):
            if not any(step.glob("meta/*")):
                shutil.rmtree(step)
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            list(
                pool.map(
                    lambda name: buckets.download_file(path / name, copy / name, entries[name]),
                    entries,
                )
            )
    return path, copy
