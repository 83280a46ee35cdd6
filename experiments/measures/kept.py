"""What was measured of a run, in its folder: <run>/measures/<name>.npz."""

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

from rrd_jax import errors

VERSION = 1  # of what measures return: a file of another one is made anew
_ORIGIN = "origin"  # an entry of the file that is no value

Values = dict[str, Any]  # by name: arrays, and Python's numbers


def path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Of the file with what was measured."""
    return pathlib.Path(folder) / "measures" / f"{name}.npz"


def plain(values: Mapping[str, Any]) -> Values:
    """Values as a file gives them back: arrays, and Python's numbers in place of 0-d ones."""
    arrays = {name: np.asarray(value) for name, value in values.items()}
    return {name: value if value.ndim else value.item() for name, value in arrays.items()}


def write(place: pathlib.Path, values: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """Writes a file whole or not at all.

    Args:
      place: as `path` has it.
      values: arrays and numbers.
      origin: digests of what was measured, see `Subject.origin`.

    Raises:
      DiskError: it cannot be written.
    """
    made = json.dumps({"version": VERSION, **origin})
    part = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: two processes may measure the same run.
        with tempfile.NamedTemporaryFile(dir=place.parent, suffix=".part", delete=False) as file:
            part = pathlib.Path(file.name)
            np.savez_compressed(file, **{_ORIGIN: np.asarray(made)}, **values)
        part.chmod(0o666 & ~_umask())  # as any other file: temporary ones are the user's alone
        part.replace(place)
    except OSError as error:
        raise errors.DiskError(
            f"{place} cannot be written ({error.strerror or error}); make room or mend that, and"
            " start the same command again"
        ) from error
    finally:
        if part:
            with contextlib.suppress(OSError):
                part.unlink()


def _umask() -> int:
    """The bits that new files do not get; it can be read only by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def read(place: pathlib.Path) -> tuple[Values, dict[str, Any]] | None:
    """The values of a file, and their origin; None where there is none, or of another version.

    Raises:
      InputError: it is damaged.
    """
    try:
        if place.is_file() and not zipfile.is_zipfile(place):
            raise zipfile.BadZipFile("it is no npz file")
        with np.load(place, allow_pickle=False) as file:
            origin = json.loads(str(file[_ORIGIN]))
            if origin.pop("version") != VERSION:
                return None
            return plain({name: file[name] for name in file.files if name != _ORIGIN}), origin
    except FileNotFoundError:
        return None
    # What NumPy, its zip files and our JSON raise for anything else.
    except (
        *(OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, MemoryError),
        *(zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error),
    ) as error:
        reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise errors.InputError(
            f"{place} is damaged ({reason}); delete it, and it is measured anew"
        ) from error


def digest_on_disk(folder: pathlib.Path) -> str | None:
    """The digest of the newest checkpoint's network, read without JAX; None where there is none."""
    try:
        steps = [int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdecimal()]
        newest = folder / "checkpoints" / str(max(steps)) / "meta" / "metadata"
        return str(errors.read_json(newest)["digests"]["student"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
