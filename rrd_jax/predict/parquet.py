"""Predictions as an Apache Parquet file, which pandas, Polars, DuckDB and vector databases read."""

from typing import Any, BinaryIO

import numpy as np

from rrd_jax import errors
from rrd_jax.library import Predictions

# Number of rows in a row group. Readers load whole groups.
_ROWS = 4096


def check_installed() -> None:
    """Raises an UnavailableError if pyarrow cannot be imported."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise errors.UnavailableError(
            f"--format=parquet needs pyarrow, which cannot be imported ({error}); run"
            " `pip install 'rrd_jax[hf]'`, or use --format=npz"
        ) from error


class Rows:
    """A Parquet file with one row per image, written in row groups.

    Columns: `file`; for a classifier `label`, `class` and `probabilities`; and the arrays passed to
    `write`, as float32 lists of fixed size.

    Args:
      file: the file to write to.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._writer = file, None
        self._pending: list[Any] = []
        # Batches without rows. If there are no other batches, they define the columns.
        self._empty: list[Any] = []

    def write(self, part: Predictions, arrays: dict[str, np.ndarray]) -> None:
        """Adds the predictions of a batch.

        Args:
          part: predictions with N files and classes.
          arrays: additional columns by name, each [N, width] float32.
        """
        (self._pending if len(part) else self._empty).append(_batch(part, arrays))
        if sum(batch.num_rows for batch in self._pending) >= _ROWS:
            self._flush()

    def finish(self) -> None:
        """Writes the last row group and the footer of the file."""
        if self._writer is None and not self._pending:
            self._pending = self._empty[:1]
        self._flush()
        self._writer.close()

    def close(self) -> None:
        """Closes the writer; the file is incomplete if `finish` has not been called."""
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        import pyarrow
        import pyarrow.parquet

        if not self._pending:
            return
        table = pyarrow.Table.from_batches(self._pending)
        if self._writer is None:
            self._writer = pyarrow.parquet.ParquetWriter(self._file, table.schema)
        self._writer.write_table(table, row_group_size=_ROWS)
        self._pending = []


def _batch(part: Predictions, arrays: dict[str, np.ndarray]) -> Any:
    import pyarrow

    # Bytes that are not UTF-8 are escaped, as in all formats.
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
