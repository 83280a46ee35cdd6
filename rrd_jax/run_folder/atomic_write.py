"""Atomic writes of text and JSON files."""

import contextlib
import json
import pathlib
from typing import Any

from rrd_jax import buckets, errors


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file atomically.

    Raises:
      DiskError: the file cannot be written.
      InputError: a folder has the name of the file.
      BucketError: the bucket cannot be reached or accessed.
    """
    if buckets.is_bucket(path):
        return buckets.write(path, text.encode())
    part = path.with_suffix(".part")
    try:
        part.write_text(text, encoding="utf-8")
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
