"""Npz files of predictions: a single file, or shards of a fixed number of images."""

import contextlib
import dataclasses
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from rrd_jax.library import Predictions

Arrays = Callable[[Predictions], dict[str, np.ndarray]]


class Columns:
    """An npz file whose arrays are collected in temporary files.

    Args:
      arrays: a function that returns the arrays to write, in addition to the classes.
      folder: the folder of the temporary files.
    """

    def __init__(self, arrays: Arrays, folder: pathlib.Path):
        self._arrays, self._folder = arrays, folder
        self._open = contextlib.ExitStack()
        self._files: list[str] = []
        self._class_names: tuple[str, ...] = ()
        self._parts: dict[str, Any] = {}
        self._shapes: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}

    def __len__(self) -> int:
        return len(self._files)

    def write(self, part: Predictions) -> None:
        """Adds the predictions of a batch."""
        self._class_names = part.class_names
        self._files += part.files
        arrays = {}
        if part.class_names:
            arrays = {"labels": part.labels, "probabilities": part.probabilities}
        for name, array in (arrays | self._arrays(part)).items():
            if name not in self._parts:
                part_file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
                self._parts[name] = self._open.enter_context(part_file)
                self._shapes[name] = (array.dtype, array.shape[1:])
            self._parts[name].write(np.ascontiguousarray(array).data)

    def finish(self, file: IO[bytes]) -> None:
        """Writes the npz file."""
        with zipfile.ZipFile(file, "w") as archive:
            for name, part in self._parts.items():
                dtype, shape = self._shapes[name]
                description = {
                    "descr": np.lib.format.dtype_to_descr(dtype),
                    "fortran_order": False,
                    "shape": (len(self._files), *shape),
                }
                part.seek(0)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array_header_1_0(entry, description)
                    shutil.copyfileobj(part, entry)
            for name, texts in (("files", self._files), ("class_names", self._class_names)):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.array(texts, dtype=np.str_))

    def close(self) -> None:
        """Removes the temporary files."""
        self._open.close()


class Shards:
    """A folder of npz files 000000.npz, 000001.npz, ... with the same number of images each.

    The last file has the remaining images.

    Args:
      arrays: a function that returns the arrays to write, in addition to the classes.
      folder: the folder.
      size: the number of images per file.
    """

    def __init__(self, arrays: Arrays, folder: pathlib.Path, size: int):
        self._arrays, self._folder, self._size = arrays, folder, size
        self._columns, self._count = Columns(arrays, folder), 0

    def write(self, part: Predictions) -> None:
        """Adds the predictions of a batch, and writes the files that are complete."""
        start = 0
        while start < len(part):
            stop = start + self._size - len(self._columns)
            self._columns.write(_rows(part, start, stop))
            if len(self._columns) == self._size:
                self._finish_shard()
            start = stop

    def finish(self) -> None:
        """Writes the remaining images; without any image, a single empty file."""
        if len(self._columns) or not self._count:
            self._finish_shard()

    def _finish_shard(self) -> None:
        with (self._folder / f"{self._count:06d}.npz").open("wb") as file:
            self._columns.finish(file)
        self._columns.close()
        self._columns, self._count = Columns(self._arrays, self._folder), self._count + 1

    def close(self) -> None:
        """Removes the temporary files."""
        self._columns.close()


def _rows(part: Predictions, start: int, stop: int) -> Predictions:
    """Returns the predictions of the images start, ..., stop - 1."""
    rows = {
        name: getattr(part, name)[start:stop]
        for name in ("logits", "embeddings", "patches", "files")
        if getattr(part, name) is not None
    }
    return dataclasses.replace(part, **rows)
