"""Files of measures: <run>/measures/<name>.npz."""

import contextlib
import json
import os
import pathlib
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from rrd_jax import errors, user_paths

# The version of the values; files of other versions are ignored.
VERSION = 1
# The entry of a file that is not a value.
_ORIGIN = "origin"

# Arrays and Python numbers by name.
Values = dict[str, Any]


def path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the file of a run's measure."""
    return pathlib.Path(folder) / "measures" / f"{name}.npz"


def plain(values: Mapping[str, Any]) -> Values:
    """Converts values to the types that `read` returns: arrays, and Python numbers for scalars."""
    arrays = {name: np.asarray(value) for name, value in values.items()}
    return {name: value if value.ndim else value.item() for name, value in arrays.items()}


def write(file: pathlib.Path, values: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """Writes a file atomically.

    Args:
      file: from `path`.
      values: arrays and numbers.
      origin: digests of weights and data; see `RunOutputs.origin`.

    Raises:
      DiskError: the file cannot be written.
    """
    header = json.dumps({"version": VERSION, **origin})
    part = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # The name is unique because two processes may measure the same run.
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as out:
            part = pathlib.Path(out.name)
            np.savez_compressed(out, **{_ORIGIN: np.asarray(header)}, **values)
        # A process can only read its mask by setting a mask.
        mask = os.umask(0o022)
        os.umask(mask)
        # By default, only the owner can read temporary files.
        part.chmod(0o666 & ~mask)
        part.replace(file)
    except OSError as error:
        raise errors.DiskError(
            f"{file} cannot be written ({error.strerror or error}); free disk space or fix the"
            " cause, then run the same command again"
        ) from error
    finally:
        if part:
            with contextlib.suppress(OSError):
                part.unlink()


def read(file: pathlib.Path) -> tuple[Values, dict[str, Any]] | None:
    """Returns values and origin; None if the file is missing or has another version.

    Raises:
      InputError: the file is damaged.
    """
    try:
        if file.is_file() and not zipfile.is_zipfile(file):
            raise zipfile.BadZipFile("not an npz file")
        with np.load(file, allow_pickle=False) as content:
            origin = json.loads(str(content[_ORIGIN]))
            if origin.pop("version") != VERSION:
                return None
            return plain({name: content[name] for name in content.files if name != _ORIGIN}), origin
    except FileNotFoundError:
        return None
    # Errors that NumPy, zipfile and json raise for damaged content.
    except (
        *(OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, MemoryError),
        *(zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error),
    ) as error:
        reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise errors.InputError(
            f"{file} is damaged ({reason}); delete it to compute the measure again"
        ) from error


def newest_digest(folder: pathlib.Path) -> str | None:
    """Returns the digest of the newest checkpoint's student without JAX; None if unavailable."""
    try:
        steps = [int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdecimal()]
        newest = folder / "checkpoints" / str(max(steps)) / "meta" / "metadata"
        return str(user_paths.read_json(newest)["digests"]["student"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
