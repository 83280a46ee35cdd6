"""Files of a teacher cache: the teacher's outputs for all views of all images.

Each process writes the rows of its images and records them with a checksum. If a process is killed,
recorded rows remain valid, and the next start computes the missing rows.
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
      folder: folder of the file and its records; created by `create`.
      shape: (N, views, width).
      dtype: dtype of the rows.
    """

    def __init__(self, folder: pathlib.Path, shape: tuple[int, int, int], dtype: np.dtype):
        self.folder, self.shape, self.dtype = folder, shape, np.dtype(dtype)
        self._bytes_per_image = shape[1] * shape[2] * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        """Size of all rows."""
        return self.shape[0] * self._bytes_per_image

    def is_complete(self) -> bool:
        """Returns True if all rows are recorded, without verifying their checksums."""
        recorded = np.zeros(self.shape[0], bool)
        for first, stop, _ in self._records():
            recorded[first:stop] = True
        return bool(recorded.all()) and self._file.stat().st_size == self.bytes

    def missing(self) -> tuple[np.ndarray, int]:
        """Returns (images [n] with missing or damaged rows, number of images with damaged rows).

        All processes must call this method. Process 0 removes the records of damaged rows, and only
        process 0 returns the number.
        """
        return parallel.main_first(self._missing)

    def _missing(self) -> tuple[np.ndarray, int]:
        intact, records = np.zeros(self.shape[0], bool), []
        damaged = np.zeros_like(intact)
        with contextlib.suppress(OSError), self._file.open("rb") as file:
            for first, stop, checksum in self._records():
                file.seek(first * self._bytes_per_image)
                if zlib.crc32(file.read((stop - first) * self._bytes_per_image)) == checksum:
                    intact[first:stop] = True
                    records.append((first, stop, checksum))
                else:
                    damaged[first:stop] = True
        if damaged.any() and parallel.is_main():
            self._write_records(records)
        return np.flatnonzero(~intact), np.count_nonzero(damaged & ~intact)

    def create(self, description: dict[str, str]) -> None:
        """Creates the folder, and a file with the size of all rows.

        Args:
          description: information about the rows for readers of about.json.

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
          index: [n], images; the last image may be repeated.
          rows: [n, views, width], rows of these images.

        Raises:
          OSError: the disk is full.
        """
        index, first_positions = np.unique(index, return_index=True)
        rows = np.ascontiguousarray(rows[first_positions], self.dtype)
        process, _ = parallel.process_share()
        runs = np.split(np.arange(len(index)), np.flatnonzero(np.diff(index) != 1) + 1)
        # With mapped memory, a full disk would end the process with SIGBUS.
        with self._file.open("r+b") as file, self._record_file(process).open("a") as records:
            for run in runs:
                first, stop = int(index[run[0]]), int(index[run[-1]]) + 1
                content = rows[run].tobytes()
                file.seek(first * self._bytes_per_image)
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
        """Yields (first image, last image + 1, checksum) of the recorded rows."""
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
    """Rows in the memory of one process, which replace a `CacheFile` that cannot be written."""

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype):
        self._rows = np.zeros(shape, dtype)

    def write(self, index: np.ndarray, rows: np.ndarray) -> None:
        """Stores the rows [n, views, width] of some images [n]."""
        self._rows[index] = rows

    def read(self) -> np.ndarray:
        """Returns all rows [N, views, width]."""
        return self._rows


def fallback(file: CacheFile, error: OSError) -> CacheInMemory:
    """Returns storage in memory that replaces a file which cannot be written.

    Raises:
      DiskError: the run has several processes, each of which computes only a part of the rows.
    """
    if parallel.process_share() != (0, 1):
        raise errors.DiskError(
            f"teacher cache: {file.folder} cannot be written ({error}), but all processes read"
            " embeddings from it; free disk space, or set teacher.cache to off"
        ) from error
    return CacheInMemory(file.shape, file.dtype)
