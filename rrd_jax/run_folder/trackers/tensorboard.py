"""TensorBoard's event files of a run."""

import pathlib
from collections.abc import Mapping
from typing import Any

import tensorboardX


class Board:
    """A writer of event files; see `writers.Writer`.

    Args:
      folder: the folder of the files.
      step: number of updates before this start; TensorBoard hides events after it.
    """

    def __init__(self, folder: pathlib.Path, step: int):
        self._board = tensorboardX.SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def row(self, row: Mapping[str, Any]) -> None:
        """Implements `Writer.row`; raises an OSError if the file cannot be written."""
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(name, value, row["step"])
        self._board.flush()

    def poll(self) -> None:
        """Implements `Writer.poll`."""

    def close(self, summary: Mapping[str, Any] | None, error: BaseException | None) -> None:
        """Implements `Writer.close`; raises an OSError if the file cannot be written."""
        del summary
        try:
            self._board.close()
        except OSError:
            # Otherwise tensorboardX raises the error again when the process exits.
            self._board.file_writer.event_writer._closed = True
            # An exception that ended the run is more informative.
            if error is None:
                raise
