"""What a teacher says of all views of all images: rows in a file that grows until it is whole.

Each process writes the rows of its images, and notes which these are with a checksum. Whatever
ends it, the rows that are noted stay, and the next start computes the others.
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


class Rows:
    """Rows [N, views, width] of which some are known.

    Args:
      folder: where they are; made as they are written.
      shape: (N, views, width).
      dtype: of the numbers.
    """

    def __init__(self, folder: pathlib.Path, shape: tuple[int, int, int], dtype: np.dtype):
        self.folder, self.shape, self.dtype = folder, shape, np.dtype(dtype)
        self._size = shape[1] * shape[2] * self.dtype.itemsize  # bytes of an image's

    @property
    def bytes(self) -> int:
        """Of all rows."""
        return self.shape[0] * self._size

    def is_whole(self) -> bool:
        """Whether all rows were noted; their checksums are not looked at."""
        known = np.zeros(self.shape[0], bool)
        for first, stop, _ in self._notes():
            known[first:stop] = True
        return bool(known.all()) and self._file.stat().st_size == self.bytes

    def missing(self) -> tuple[np.ndarray, int]:
        """Returns ([n] images whose rows are not known, how many of them are damaged).

        Every process is to ask; the first one takes out the notes of damaged rows, and knows alone
        how many there are.
        """
        return parallel.main_first(self._missing)

    def _missing(self) -> tuple[np.ndarray, int]:
        known, good = np.zeros(self.shape[0], bool), []
        bad = np.zeros_like(known)
        with contextlib.suppress(OSError), self._file.open("rb") as file:
            for first, stop, checksum in self._notes():
                file.seek(first * self._size)
                if zlib.crc32(file.read((stop - first) * self._size)) == checksum:
                    known[first:stop] = True
                    good.append((first, stop, checksum))
                else:
                    bad[first:stop] = True
        if bad.any() and parallel.is_main():
            self._keep_notes(good)
        return np.flatnonzero(~known), np.count_nonzero(bad & ~known)

    def begin(self, about: dict[str, str]) -> None:
        """Makes the folder, and a file with room for all rows.

        Args:
          about: what is in it, for people.

        Raises:
          OSError: it cannot be written, or the disk has no room.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._file.open("ab") as file:
            room = shutil.disk_usage(self.folder).free
            taken = os.fstat(file.fileno()).st_blocks * 512
            if self.bytes - taken > room:
                raise OSError(f"{self.bytes / 1e9:.2f} GB do not fit into {room / 1e9:.2f} GB")
            file.truncate(self.bytes)
        about = {"shape": list(self.shape), "dtype": self.dtype.name, **about}
        (self.folder / "about.json").write_text(json.dumps(about, indent=1) + "\n")

    def write(self, index: np.ndarray, rows: np.ndarray) -> None:
        """Keeps rows of some images.

        Args:
          index: [n] images, each at most once, but for the last.
          rows: [n, views, width].

        Raises:
          OSError: the disk is full.
        """
        index, places = np.unique(index, return_index=True)
        rows = np.ascontiguousarray(rows[places], self.dtype)
        process, _ = parallel.process_share()
        runs = np.split(np.arange(len(index)), np.flatnonzero(np.diff(index) != 1) + 1)
        # Not through mapped memory: a full disk would end the process there.
        with self._file.open("r+b") as file, self._note(process).open("a") as notes:
            for run in runs:
                first, stop = int(index[run[0]]), int(index[run[-1]]) + 1
                content = rows[run].tobytes()
                file.seek(first * self._size)
                file.write(content)
                file.flush()
                # A line may have been torn before.
                notes.write(f"\n{first} {stop} {zlib.crc32(content)}\n")

    def read(self) -> np.ndarray:
        """[N, views, width], mapped into memory.

        Raises:
          OSError: the file is gone.
        """
        return np.memmap(self._file, self.dtype, "r", shape=self.shape)

    @property
    def _file(self) -> pathlib.Path:
        return self.folder / "rows"

    def _note(self, process: int) -> pathlib.Path:
        return self.folder / f"known-{process}.txt"

    def _notes(self) -> Iterator[tuple[int, int, int]]:
        """(first image, the one after the last, checksum) of rows that were written."""
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

    def _keep_notes(self, notes: list[tuple[int, int, int]]) -> None:
        for path in self.folder.glob("known-*.txt"):
            path.unlink()
        lines = [f"{first} {stop} {checksum}\n" for first, stop, checksum in notes]
        self._note(0).write_text("".join(lines))


class RowsInMemory:
    """Rows that no disk keeps; as `Rows`, of one process."""

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype):
        self._rows = np.zeros(shape, dtype)

    def write(self, index: np.ndarray, rows: np.ndarray) -> None:
        """Keeps rows [n, views, width] of some images [n]."""
        self._rows[index] = rows

    def read(self) -> np.ndarray:
        """[N, views, width]."""
        return self._rows


def fallback(rows: Rows, error: OSError) -> RowsInMemory:
    """Rows in memory, in place of those that the disk cannot keep.

    Raises:
      InputError: several processes make them, each of which has some only.
    """
    if parallel.process_share() != (0, 1):
        raise errors.InputError(
            f"the teacher's embeddings cannot be kept in {rows.folder} ({error}), which all"
            " processes read; make room there, or set teacher.cache to off"
        ) from error
    return RowsInMemory(rows.shape, rows.dtype)
