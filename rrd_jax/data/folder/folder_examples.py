"""Random access to the encoded images of a folder."""

import dataclasses
import os
from typing import Any

import numpy as np

from rrd_jax import errors
from rrd_jax.data.folder.file_tree import display_path
from rrd_jax.data.folder.inspection import digest
from rrd_jax.data.images import decoding, image_files
from rrd_jax.data.splits import Examples


@dataclasses.dataclass(frozen=True, eq=False)
class FolderExamples(Examples):
    """Encoded images of a folder with `label` and `file_name`.

    Attributes:
      root: the folder.
      paths: paths of the images, relative to the root.
      names: `file_name` of each example.
      labels: label of each image.
      digests: content digest of each image.
      states: [N, 3] size and times of each file at inspection, from `inspection.trusted_states`.
    """

    root: str
    paths: list[str]
    names: list[bytes]
    labels: list[int]
    digests: list[str]
    states: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def listed_labels(self) -> list[int]:
        """Label of each image."""
        return self.labels

    def read(self, i: int) -> dict[str, Any]:
        """Returns example i; raises an InputError if its file has changed."""
        path = os.path.join(self.root, self.paths[i])
        try:
            content, state = image_files.read_with_state(path)
        except OSError as error:
            reason = f"cannot be read ({image_files.reason(error)})"
            raise self._change(path, reason) from error
        # The digest is compared only if size or times differ: it takes a tenth of the read time.
        if tuple(self.states[i]) != state and digest(content) != self.digests[i]:
            raise self._change(path, "has changed")
        image = decoding.Upright(content)
        return {"image": image, "label": self.labels[i], "file_name": self.names[i]}

    def _change(self, path: str, problem: str) -> errors.InputError:
        return errors.InputError(
            f"image {display_path(path)} {problem} since this run started; restore the original"
            " file and repeat the command to resume, or use a new --workdir for changed images"
        )
