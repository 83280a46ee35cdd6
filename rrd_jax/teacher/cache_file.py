"""The file of a cache: the teacher's outputs for all views of all images, filled image by image.

Each process writes the rows of its images and records them with a checksum. If a process is killed,
recorded rows remain valid, and the next start computes the others.
"""

import contextlib
import json
import os
import pathlib
import shutil
import zlib
from collections.abc import Iterator

import numpy as np

from rrd_jax import errors, parallel


class CacheFile:
    """Rows [N, views, width] on disk, some of which may be missing.

    Args:
      folder: of the file and its records; created by `create`.
      shape: (N, views, width).
      dtype: of the rows.
    """

    def __init__(self, folder: pathlib.Path, shape: tuple[int, int, int], dtype: np.dtype):
        self.folder, self.shape, self.dtype = folder, shape, np.dtype(dtype)
        self._size = shape[1] * shape[2] * self.dtype.itemsize  # bytes per image

    @property
    def bytes(self) -> int:
        """Size of all rows."""
        return self.shape[0] * self._size

    def is_complete(self) -> bool:
        """Returns True if all rows are recorded, without verifying their checksums."""
        known = np.zeros(self.shape[0], bool)
        for first, stop, _ in self._records():
            known[first:stop] = True
        return bool(known.all()) and self._file.stat().st_size == self.bytes

    def missing(self) -> tuple[np.ndarray, int]:
        """Returns ([n] images whose rows are missing or damaged, the number of damaged ones).

        All processes have to call this. Process 0 removes the records of damaged rows, and only
        process 0 returns their number.
        """
        return parallel.main_first(self._missing)

    def _missing(self) -> tuple[np.ndarray, int]:
        known, good = np.zeros(self.shape[0], bool), []
        bad = np.zeros_like(known)
        with contextlib.suppress(OSError), self._file.open("rb") as file:
            for first, stop, checksum in self._records():
                file.seek(first * self._size)
                if zlib.crc32(file.read((stop - first) * self._size)) == checksum:
                    known[first:stop] = True
                    good.append((first, stop, checksum))
                else:
                    bad[first:stop] = True
        if bad.any() and parallel.is_main():
            self._write_records(good)
        return np.flatnonzero(~known), np.count_nonzero(bad & ~known)

    def create(self, description: dict[str, str]) -> None:
        """Creates the folder, and a file with the size of all rows.

        Args:
          description: of the rows, stored in about.json for people.

        Raises:
          OSError: the folder cannot be written, or the disk is too small.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._file.open("ab") as file:
            free = shutil.disk_usage(self.folder).free
            allocated = os.fstat(file.fileno()).st_blocks * 512
            if self.bytes - allocated > free:
                raise OSError(f"{self.bytes / 1e9:.2f} GB do not fit into {free / 1e9:.2f} GB")
            file.truncate(self.bytes)
        about = {"shape": list(self.shape), "dtype": self.dtype.name, **description}
        (self.folder / "about.json").write_text(json.dumps(about, indent=1) + "\n")

    def write(self, index: np.ndarray, rows: np.ndarray) -> None:
        """Stores and records the rows of some images.

        Args:
          index: [n] images; the last one may be repeated.
          rows: [n, views, width].

        Raises:
          OSError: the disk is full.
        """
        index, places = np.unique(index, return_index=True)
        rows = np.ascontiguousarray(rows[places], self.dtype)
        process, _ = parallel.process_share()
        runs = np.split(np.arange(len(index)), np.flatnonzero(np.diff(index) != 1) + 1)
        # With mapped memory, a full disk would end the process with SIGBUS.
        with self._file.open("r+b") as file, self._record_file(process).open("a") as records:
            for run in runs:
                first, stop = int(index[run[0]]), int(index[run[-1]]) + 1
                content = rows[run].tobytes()
                file.seek(first * self._size)
                file.write(content)
                file.flush()
                # An interrupted write may have left an incomplete line.
                records.write(f"\n{first} {stop} {zlib.crc32(content)}\n")

    def read(self) -> np.ndarray:
        """Maps the rows [N, views, width] into memory.

        Raises:
          OSError: the file was deleted.
        """
        return np.memmap(self._file, self.dtype, "r", shape=self.shape)

    @property
    def _file(self) -> pathlib.Path:
        return self.folder / "rows"

    def _record_file(self, process: int) -> pathlib.Path:
        return self.folder / f"known-{process}.txt"

    def _records(self) -> Iterator[tuple[int, int, int]]:
        """Yields (first image, last image + 1, checksum) of rows that were written."""
        try:
            if not self._file.exists():
                return
            paths = sorted(self.folder.glob("known-*.txt"))
            lines = [line.split() for path in paths for line in path.read_text().split("\n")[:-1]]
        except OSError:
            return
        for line in lines:
            if len(line) == 3 and all(word.isdecimal() for word in line):
                first, stop, checksum = map(int, line)
                if first < stop <= self.shape[0]:
                    yield first, stop, checksum

    def _write_records(self, records: list[tuple[int, int, int]]) -> None:
        """Replaces all records."""
        for path in self.folder.glob("known-*.txt"):
            path.unlink()
        lines = [f"{first} {stop} {checksum}\n" for first, stop, checksum in records]
        self._record_file(0).write_text("".join(lines))


class CacheInMemory:
    """Rows in the memory of one process, for a disk that cannot be written; see `CacheFile`."""

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype):
        self._rows = np.zeros(shape, dtype)

    def write(self, index: np.ndarray, rows: np.ndarray) -> None:
        """Stores the rows [n, views, width] of some images [n]."""
        self._rows[index] = rows

    def read(self) -> np.ndarray:
        """Returns all rows [N, views, width]."""
        return self._rows


def fallback(file: CacheFile, error: OSError) -> CacheInMemory:
    """Returns rows in memory that replace a file which cannot be written.

    Raises:
      InputError: there are several processes, each of which computes a part of the rows only.
    """
    if parallel.process_share() != (0, 1):
        raise errors.InputError(
            f"the teacher's embeddings cannot be stored in {file.folder} ({error}), from which all"
            " processes read them; free disk space there, or set teacher.cache to off"
        ) from error
    return CacheInMemory(file.shape, file.dtype)
