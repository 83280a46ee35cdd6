"""Random access to the images of a folder, as they are on disk."""

import dataclasses
import os
from typing import Any

import numpy as np

from rrd_jax import errors
from rrd_jax.data.folder.file_tree import shown
from rrd_jax.data.folder.inspection import digest
from rrd_jax.data.images import decoding, image_files
from rrd_jax.data.splits import Examples


@dataclasses.dataclass(frozen=True, eq=False)
class FolderExamples(Examples):
    """Images of a folder, encoded, with `label` and `file_name`.

    Attributes:
      root: the folder.
      paths: paths of the images, below it.
      names: their file names in examples.
      labels: labels of the images.
      digests: digests of their content.
      states: [N, 3] size and times with which they had that content, as `inspection.settled`
        returns them.
    """

    root: str
    paths: list[str]
    names: list[bytes]
    labels: list[int]
    digests: list[str]
    states: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, i: int) -> dict[str, Any]:
        """Returns example i; raises an InputError if its file has changed."""
        path = os.path.join(self.root, self.paths[i])
        try:
            content, state = image_files.read_with_state(path)
        except OSError as error:
            reason = f"cannot be read ({image_files.reason(error)})"
            raise self._change(path, reason) from error
        # A digest of each image, each time, would be a tenth of the time that it takes to read.
        if tuple(self.states[i]) != state and digest(content) != self.digests[i]:
            raise self._change(path, "has changed")
        image = decoding.Upright(content)
        return {"image": image, "label": self.labels[i], "file_name": self.names[i]}

    def _change(self, path: str, problem: str) -> errors.InputError:
        return errors.InputError(
            f"image {shown(path)} {problem} since this run started: bring it back as it was, and"
            " the same command goes on; other images are for another --workdir"
        )
