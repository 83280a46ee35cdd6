"""Alignment metrics of student and teacher on held-out images, during training."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import data, errors, networks, parallel
from rrd_jax.evaluation import alignment, knn, predictions
from rrd_jax.jobs import measured_student
from rrd_jax.networks import Outputs
from rrd_jax.objectives import Objective, ObjectiveState
from rrd_jax.teacher import embedding_accuracy
from rrd_jax.teacher.ensemble import member_networks
from rrd_jax.teacher.frozen import FrozenNetwork, held_out
from rrd_jax.terminal import console
from rrd_jax.training.recipe import Recipe


class Alignment:
    """Computes alignment metrics of a student during its training.

    Args:
      recipe: recipe of the student.
      dataset: data set with the held-out test split.
      mesh: the devices.
      teacher: the frozen teacher.

    Raises:
      InputError: the embeddings that eval.knn or eval.labelled needs do not fit into memory.
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
        # Without labels, the alignment chooses the best checkpoint.
        self._compares_embeddings = self._choice.on or not dataset.labelled
        self._split = held_out(dataset, self._choice.images)
        self._embed = predictions.compile_embed(
            recipe.student,
            self._training.normalize,
            mesh,
            fast_cpu=self._training.fast_cpu,
            fully=self._training.shard_parameters,
        )
        # Successive measurements of nearly constant embeddings.
        self._collapsed = 0
        self._labelled, self._random_votes = dataset.labelled_subset or dataset, {}
        if self._choice.classifies:
            self._check_labelled_images()
        self._compares = {
            name: compile_loss_and_floor(objective, mesh)
            for name, objective in recipe.objectives.items()
            if objective.floor
        }

    def is_due(self, epoch: int) -> bool:
        """Returns True if metrics are measured after an epoch."""
        return epoch == self._training.epochs or epoch % self._choice.every == 0

    def measure(
        self,
        variables: Any,
        epoch: int,
        objectives: Mapping[str, ObjectiveState] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, float]:
        """Computes the metrics that are due after an epoch; returns {} if no metrics are due.

        Args:
          variables: the student's variables.
          epoch: number of finished epochs.
          objectives: states of the objectives, by name; None to skip their losses.
          stop: polled after each batch; True stops.

        Returns:
          With eval.proof, or without labels: the metrics of `alignment.compare`, with several
          teachers also for each of them; teacher_effective_rank and teacher_deviation; and for each
          objective with a floor, such as rrd, loss/rrd and floor/rrd in nats. With eval.labelled,
          or after the last epoch with eval.knn: the metrics of `embedding_accuracy.evaluate` for
          the student, the teacher (teacher_probe, ...) and a student with random weights
          (random_knn_20, ...). After the last epoch: the metrics of `alignment.compare` for the
          random student.

        Raises:
          StoppedError: `stop` returned True.
          DivergedError: embeddings are not finite.
        """
        after = measured_student.stopping(stop)
        last, is_due = epoch == self._training.epochs, self.is_due(epoch)
        compares = self._compares_embeddings and is_due
        classifies = self._choice.classifies and (is_due if self._choice.labelled else last)
        if not (compares or classifies):
            return {}
        embeddings, metrics = self._embeddings(variables, after), {}
        reference = self._teacher.held_out
        if compares:
            metrics |= alignment.compare(embeddings, reference)
            metrics |= alignment.by_teacher(
                self._teacher.members,
                lambda teacher: alignment.compare(embeddings, teacher.held_out),
            )
            metrics |= self._losses(embeddings, objectives or {})
            self._warn_about_collapse(metrics, epoch)
            metrics |= measured_student.prefixed("teacher", reference.spread)
        if not classifies:
            return metrics
        metrics |= self._classification(variables, after)
        if compares and last:
            embeddings = self._embeddings(self._random_variables(), after)
            metrics |= measured_student.prefixed("random", alignment.compare(embeddings, reference))
        return metrics

    def _embeddings(
        self, variables: Any, after: Callable[[float], None], split: Any = None
    ) -> np.ndarray:
        """Returns the embeddings [N, D] of a split; None for the held-out images."""
        size, split = self._training.eval_batch_size, self._split if split is None else split
        embeddings, _ = predictions.collect_embeddings(
            self._embed, variables, split, size, self._mesh, after
        )
        measured_student.check_finite(embeddings, "embeddings", self._training.label)
        return embeddings

    def compare_validation(
        self, variables: Any, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, float]:
        """Returns the metrics of `alignment.compare` for the validation images.

        Raises:
          StoppedError: `stop` returned True.
        """
        teacher = self._teacher.on_validation
        split = held_out(teacher.dataset, self._choice.images)
        embeddings = self._embeddings(variables, measured_student.stopping(stop), split)
        return alignment.compare(embeddings, teacher.held_out)

    def _losses(
        self, embeddings: np.ndarray, objectives: Mapping[str, ObjectiveState]
    ) -> dict[str, float]:
        """Returns the mean held-out loss and floor of each objective, over training-size batches.

        An incomplete last batch is skipped, unless it is the only batch.
        """
        size = min(self._training.batch_size // self._training.accumulate, len(embeddings))
        pair = (embeddings, self._teacher.held_out.embeddings)
        replicated = parallel.replicated(self._mesh)
        starts = range(0, len(embeddings) - size + 1, size)
        batches = [parallel.put(replicated, [e[i : i + size] for e in pair]) for i in starts]
        metrics = {}
        for name, compare in self._compares.items():
            if name not in objectives:
                continue
            values = [compare(objectives[name], *batch) for batch in batches]
            loss, floor = np.mean(jax.device_get(values), axis=0, dtype=np.float64)
            metrics |= {f"loss/{name}": float(loss), f"floor/{name}": float(floor)}
        return {name: value for name, value in metrics.items() if np.isfinite(value)}

    def _classification(self, variables: Any, after: Callable[[float], None]) -> dict[str, float]:
        """Returns the accuracy of the embeddings of student, random student and teacher.

        If memory has become too small since the start, logs a warning instead of failing the run.
        """
        try:
            metrics = self._votes(variables, after)
            self._random_votes = self._random_votes or self._votes(self._random_variables(), after)
            teacher = self._teacher.labelled
        except errors.InputError as error:
            console.warn(f"[{self._training.label}] k-NN and linear probe skipped: {error}")
            return {}
        prefixed = measured_student.prefixed
        return metrics | prefixed("random", self._random_votes) | prefixed("teacher", teacher)

    def _votes(self, variables: Any, after: Callable[[float], None]) -> dict[str, float]:
        return embedding_accuracy.evaluate(
            self._embed, variables, self._labelled, self._mesh, self._training, after
        )

    def _check_labelled_images(self) -> None:
        """Raises an InputError for too many labeled images; logs values of k that are skipped."""
        for network in (self._recipe.student, *member_networks(self._teacher.network)):
            outputs = networks.summarize(network, self._dataset.image_shape).outputs
            width = outputs.embedding.shape[-1]
            embedding_accuracy.check_memory(self._labelled, width, self._mesh, self._training)
        count = len(self._labelled.train)
        if skipped := [str(k) for k in knn.KS if k > count]:
            console.note(
                f"[{self._training.label}] k-NN with k = {', '.join(skipped)} skipped: number of"
                f" labeled images is {count}"
            )

    def _random_variables(self) -> Any:
        return measured_student.random_variables(
            self._recipe, self._dataset.image_shape, self._mesh
        )

    def _warn_about_collapse(self, metrics: dict[str, float], epoch: int) -> None:
        """Warns once about a student with nearly constant embeddings.

        A single measurement does not cause a warning unless it is the last measurement, because
        running statistics are inaccurate at the beginning.
        """
        collapse = alignment.describe_collapse(metrics, self._teacher.held_out)
        self._collapsed = self._collapsed + 1 if collapse else 0
        epochs = self._training.epochs
        if self._collapsed == 2 or (self._collapsed == 1 and epoch == epochs):
            console.warn(
                f"[{self._training.label}] after epoch {epoch} of {epochs} {collapse}; check"
                " optimizer.learning_rate and the weights and temperatures of the objectives"
            )


def compile_loss_and_floor(objective: Objective, mesh: jax.sharding.Mesh) -> Callable:
    """Compiles the mean loss and the mean floor of an objective, without an update of its state.

    Returns:
      (state, student's embeddings [B, D], teacher's [B, E]) -> (mean loss, mean floor).
    """

    @functools.partial(parallel.with_mesh, mesh)
    def compare(state, student, teacher):
        student, teacher = (Outputs((), embedding) for embedding in (student, teacher))
        losses, _ = objective.loss(state, student, teacher, None)
        return jnp.mean(losses), jnp.mean(objective.floor(state, teacher))

    return jax.jit(compare, out_shardings=parallel.replicated(mesh))
