"""Pictures of patches at the first, the middle and the last epoch of a run."""

import pathlib
from typing import Any

import jax
import numpy as np

from rrd_jax import data, errors, parallel
from rrd_jax.data.images import transforms
from rrd_jax.evaluation import patch_colours, patches
from rrd_jax.run_folder import atomic_write
from rrd_jax.teacher.frozen import FrozenNetwork, held_out
from rrd_jax.terminal import console
from rrd_jax.training.recipe import Recipe

# The folder of the pictures in a run folder.
FOLDER = "patches"
_IMAGES = 8


class PatchPictures:
    """Writes patches/epoch-N.png: held-out images, and patches of student and teacher in colors.

    Args:
      recipe: recipe of the student.
      dataset: data set with the held-out test split.
      mesh: the devices.
      teacher: the frozen teacher, whose patches define the colors.
      folder: the run folder.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: data.Dataset,
        mesh: jax.sharding.Mesh,
        teacher: FrozenNetwork,
        folder: pathlib.Path,
    ):
        self._training, self._mesh, self._teacher = recipe.training, mesh, teacher
        self._folder, self._drawn = folder / FOLDER, None
        self._split = held_out(dataset, _IMAGES)
        self._compute = self._compiled(recipe.student)

    def draw(self, variables: Any, epoch: int) -> None:
        """Writes the picture of an epoch, if one is due.

        Args:
          variables: the student's variables.
          epoch: number of finished epochs.
        """
        epochs = self._training.epochs
        if epoch not in (1, (epochs + 1) // 2, epochs):
            return
        if self._drawn is None:
            self._drawn = self._images_and_teacher()
        images, teacher = self._drawn
        student = self._patches(self._compute, variables, images)
        if not parallel.is_main():
            return
        try:
            colors = patch_colours.colours([teacher, student])
        except errors.InputError as error:
            console.note(f"[{self._training.label}] picture of patches skipped: {error}")
            return
        picture = patch_colours.montage(images, colors[::-1])
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"epoch-{epoch:04d}.png"
        atomic_write.write_bytes(path, transforms.encode_png(picture))

    def _images_and_teacher(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images [N, H, W, channels] and the teacher's patches, in every process."""
        (batch,) = self._split.test_batches(len(self._split))
        compute = self._compiled(self._teacher.network)
        return batch["image"], self._patches(compute, self._teacher.evaluated(), batch["image"])

    def _patches(self, compute: Any, variables: Any, images: np.ndarray) -> np.ndarray:
        images = parallel.put(parallel.replicated(self._mesh), images)
        return jax.device_get(compute(variables, images))

    def _compiled(self, network: Any) -> Any:
        return patches.compile_patches(
            network,
            self._training.normalize,
            self._mesh,
            fast_cpu=self._training.fast_cpu,
            fully=self._training.shard_parameters,
        )
