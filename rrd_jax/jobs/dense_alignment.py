"""Metrics of the student's patches on held-out images and on images with masks, during training."""

from collections.abc import Callable
from typing import Any

import jax

from rrd_jax import data
from rrd_jax.evaluation import alignment, patches
from rrd_jax.jobs import measured_student
from rrd_jax.teacher.dense_probe import DenseProbe
from rrd_jax.teacher.frozen import FrozenNetwork, held_out
from rrd_jax.training.recipe import Recipe


class DenseAlignment:
    """Computes metrics of a student's patches during its training.

    Args:
      recipe: recipe of the student.
      dataset: data set with the held-out test split.
      mesh: the devices.
      teacher: the frozen teacher.

    Raises:
      InputError: a network has no patches, or those of eval.dense do not fit into memory.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: data.Dataset,
        mesh: jax.sharding.Mesh,
        teacher: FrozenNetwork,
    ):
        self._recipe, self._dataset, self._mesh, self._teacher = recipe, dataset, mesh, teacher
        self._training, self._choice = recipe.training, recipe.training.alignment
        grids = [
            patches.check(network, dataset.image_shape, role)[:2]
            for role, network in (("student", recipe.student), ("teacher", teacher.network))
        ]
        self._grid = max(grid[0] for grid in grids), max(grid[1] for grid in grids)
        self._patches = patches.compile_patches(
            recipe.student,
            self._training.normalize,
            mesh,
            grid=self._grid,
            fast_cpu=self._training.fast_cpu,
            fully=self._training.shard_parameters,
        )
        self._probe = None
        if dataset.masked_subset:
            self._probe = DenseProbe(
                recipe.student, dataset.masked_subset, mesh, self._training, "student"
            )
        self._random: dict[str, float] = {}

    def measure(
        self, variables: Any, epoch: int, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, float]:
        """Computes the metrics that are due after an epoch; returns {} if no metrics are due.

        Args:
          variables: the student's variables.
          epoch: number of finished epochs.
          stop: polled after each batch; True stops.

        Returns:
          The metrics of `patches.compare`, with several teachers also for each of them, and with
          eval.dense those of `DenseProbe.evaluate`, of the student, of a student with random
          weights (random_miou, ...), and the teacher's (teacher_miou, ...).

        Raises:
          StoppedError: `stop` returned True.
          DivergedError: patches are not finite.
        """
        if epoch != self._training.epochs and epoch % self._choice.every:
            return {}
        after = measured_student.stopping(stop)
        metrics = self._metrics(variables, after)
        if not self._random:
            shape = self._dataset.image_shape
            weights = measured_student.random_variables(self._recipe, shape, self._mesh)
            self._random = self._metrics(weights, after)
        teacher = self._teacher.dense if self._probe else {}
        prefixed = measured_student.prefixed
        return metrics | prefixed("random", self._random) | prefixed("teacher", teacher)

    def _metrics(self, variables: Any, after: Callable[[float], None]) -> dict[str, float]:
        split = held_out(self._dataset, self._choice.images)
        sample = patches.collect_sample(
            self._patches, variables, split, self._training.eval_batch_size, self._mesh, after
        )
        measured_student.check_finite(sample, "patches", self._training.label)
        metrics = patches.compare(sample, self._teacher.held_out_patches(self._grid))
        metrics |= alignment.by_teacher(
            self._teacher.members,
            lambda teacher: patches.compare(sample, teacher.held_out_patches(self._grid)),
        )
        return metrics | (self._probe.evaluate(variables, after) if self._probe else {})
