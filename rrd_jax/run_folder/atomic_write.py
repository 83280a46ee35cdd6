"""Atomic writes of files."""

import contextlib
import json
import pathlib
from typing import Any

from rrd_jax import buckets, errors


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file atomically; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file atomically.

    Raises:
      DiskError: the file cannot be written.
      InputError: a folder has the name of the file.
      BucketError: the bucket cannot be reached or accessed.
    """
    if buckets.is_bucket(path):
        return buckets.write(path, content)
    part = path.with_suffix(".part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except IsADirectoryError as error:
        folder = part if part.is_dir() else path
        _discard(part)
        raise errors.InputError(
            f"{folder} is a folder, but a file is expected; remove the folder"
        ) from error
    except OSError as error:
        # A full disk leaves an incomplete file.
        _discard(part)
        raise errors.DiskError(
            f"{path} cannot be written ({error.strerror or error}); free disk space or fix the"
            " cause, then run the same command again"
        ) from error


def _discard(part: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        part.unlink()


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
