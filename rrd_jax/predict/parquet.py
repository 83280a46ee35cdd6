"""Predictions as an Apache Parquet file, which pandas, Polars, DuckDB and vector databases read."""

from typing import Any, BinaryIO

import numpy as np

from rrd_jax import errors
from rrd_jax.library import Predictions

_ROWS = 4096  # of a group, which readers take as a whole


def check_installed() -> None:
    """Raises an UnavailableError where pyarrow cannot be imported."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise errors.UnavailableError(
            f"--format=parquet is written with pyarrow, which cannot be imported ({error}): run"
            " `pip install 'rrd_jax[hf]'`, which brings it, or take --format=npz"
        ) from error


class Rows:
    """Rows of images that become groups of a Parquet file as they come.

    Columns: `file`; of a classifier `label`, `class` and `probabilities`; what else is given. What
    is of each image an array is a list of a fixed size, of float32.

    Args:
      file: to write to.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._writer = file, None
        self._waiting: list[Any] = []
        self._columns: list[Any] = []  # a batch of no rows, where no image could be read

    def write(self, part: Predictions, arrays: dict[str, np.ndarray]) -> None:
        """Adds the images of a part.

        Args:
          part: of which files and classes are written.
          arrays: other columns by name, each [N, width] float32.
        """
        (self._waiting if len(part) else self._columns).append(_batch(part, arrays))
        if sum(batch.num_rows for batch in self._waiting) >= _ROWS:
            self._flush()

    def finish(self) -> None:
        """Writes what waits, and the end of the file."""
        if self._writer is None and not self._waiting:
            self._waiting = self._columns[:1]
        self._flush()
        self._writer.close()

    def close(self) -> None:
        """Lets go of the file, which is not whole where `finish` has not been called."""
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        import pyarrow
        import pyarrow.parquet

        if not self._waiting:
            return
        table = pyarrow.Table.from_batches(self._waiting)
        if self._writer is None:
            self._writer = pyarrow.parquet.ParquetWriter(self._file, table.schema)
        self._writer.write_table(table, row_group_size=_ROWS)
        self._waiting = []


def _batch(part: Predictions, arrays: dict[str, np.ndarray]) -> Any:
    import pyarrow

    # Odd bytes of a name are spelled, as in the other forms.
    files = [file.encode("utf-8", "backslashreplace").decode() for file in part.files]
    columns = {"file": pyarrow.array(files, pyarrow.string())}
    if part.class_names:
        columns["label"] = pyarrow.array(part.labels)
        columns["class"] = pyarrow.array(part.names, pyarrow.string())
        arrays = {"probabilities": part.probabilities, **arrays}
    for name, array in arrays.items():
        flat = pyarrow.array(np.ascontiguousarray(array, np.float32).reshape(-1))
        columns[name] = pyarrow.FixedSizeListArray.from_arrays(flat, array.shape[1])
    return pyarrow.record_batch(columns)
