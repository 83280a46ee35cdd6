"""TensorBoard's event files of a run."""

import pathlib
from collections.abc import Mapping
from typing import Any

import tensorboardX

from rrd_jax import buckets, errors


class Board:
    """A writer of event files; see `writers.Writer`.

    Args:
      folder: the folder of the files. Those of a folder in a bucket are written to a scratch
        folder, and uploaded after each row.
      step: number of updates before this start; TensorBoard hides events after it.
    """

    def __init__(self, folder: pathlib.Path, step: int):
        local = buckets.local(folder)
        self._mirror = buckets.Mirror(local, folder) if local is not folder else None
        self._board = tensorboardX.SummaryWriter(str(local), purge_step=step + 1 if step else None)

    def row(self, row: Mapping[str, Any]) -> None:
        """Implements `Writer.row`; raises an OSError if the file cannot be written."""
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(name, value, row["step"])
        self._board.flush()
        if self._mirror:
            self._mirror.update()

    def poll(self) -> None:
        """Implements `Writer.poll`."""

    def end(self, summary: Mapping[str, Any] | None, error: BaseException | None) -> None:
        """Implements `Writer.end`; raises an OSError if the file cannot be written."""
        del summary
        try:
            self._board.close()
            self._upload(error)
        except OSError:
            # Otherwise tensorboardX raises the error again when the process exits.
            self._board.file_writer.event_writer._closed = True
            # An exception that ended the run is more informative.
            if error is None:
                raise

    def close(self) -> None:
        """Implements `Writer.close`."""

    def _upload(self, error: BaseException | None) -> None:
        """Uploads the last events; an exception that ended the run is more informative."""
        try:
            if self._mirror:
                self._mirror.close()
        except (errors.BucketError, errors.InUseError):
            if error is None:
                raise
