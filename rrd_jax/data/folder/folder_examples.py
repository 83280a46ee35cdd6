"""Random access to the images of a folder, as they are on disk."""

import dataclasses
import operator
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from rrd_jax import errors
from rrd_jax.data.folder import inspection
from rrd_jax.data.folder.file_tree import reason, shown
from rrd_jax.data.images import decoding


@dataclasses.dataclass(frozen=True, eq=False)
class FolderExamples(Sequence):
    """Images of a folder, encoded, with `label` and `file_name`.

    Attributes:
      root: the folder.
      paths: of the images, below it.
      names: to call them by.
      labels: of the images.
      digests: of their content.
      states: [N, 3] size and times with which they had that content, as `check.settled` has it.
    """

    root: str
    paths: list[str]
    names: list[bytes]
    labels: list[int]
    digests: list[str]
    states: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> dict[str, Any]:
        i = operator.index(i)
        if i >= len(self):
            raise IndexError(i)
        return {
            "image": decoding.Upright(self._content(i)),
            "label": self.labels[i],
            "file_name": self.names[i],
        }

    def _content(self, i: int) -> bytes:
        """The file of an example; raises an InputError if it is not what it was."""
        path = os.path.join(self.root, self.paths[i])
        try:
            content, state = inspection.read_with_state(path)
        except OSError as error:
            raise self._changed(path, f"cannot be read ({reason(error)})") from error
        # A digest of each image, each time, would be a tenth of the time that it takes to read.
        if tuple(self.states[i]) != state and inspection.digest(content) != self.digests[i]:
            raise self._changed(path, "has changed")
        return content

    def _changed(self, path: str, what: str) -> errors.InputError:
        return errors.InputError(
            f"image {shown(path)} {what} since this run started: bring it back as it was, and the"
            " same command goes on; other images are for another --workdir"
        )
