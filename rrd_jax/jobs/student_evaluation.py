"""Evaluation of a student during its training: predictions, held-out losses and alignment."""

import dataclasses
from collections.abc import Callable
from typing import Any

from rrd_jax.evaluation import predictions
from rrd_jax.jobs import held_out
from rrd_jax.jobs.alignment_during_training import Alignment
from rrd_jax.jobs.dense_alignment import DenseAlignment
from rrd_jax.jobs.epoch import EvaluationResults, SplitResults
from rrd_jax.jobs.patch_pictures import PatchPictures
from rrd_jax.jobs.run import Position, Run
from rrd_jax.terminal import console
from rrd_jax.training import criterion
from rrd_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The compiled parts of a student's evaluation.

    Attributes:
      predict: the function of `predictions.compile_predict`; None if the student has no classes.
      losses: losses on held-out images; None for a student with labels.
      alignment: alignment with the teacher; None if it is not measured.
      dense: alignment of patches with the teacher's; None if it is not measured.
      pictures: pictures of patches; None if patches are not compared.
    """

    predict: Callable | None
    losses: held_out.Losses | None
    alignment: Alignment | None
    dense: DenseAlignment | None
    pictures: PatchPictures | None


def create(run: Run) -> Evaluation:
    """Creates the evaluation of a run's student, compiled on first use; logs skipped parts."""
    training, predict, alignment = run.training, None, None
    dense = pictures = None
    if run.dataset.num_classes:
        predict = predictions.compile_predict(
            run.recipe.student,
            training.normalize,
            run.mesh,
            run.recipe.objectives,
            fast_cpu=training.fast_cpu,
            fully=training.shard_parameters,
        )
    losses = None if run.dataset.labelled else _held_out_losses(run)
    if run.teacher and (training.alignment or criterion.compares_embeddings(run.criterion)):
        alignment = Alignment(run.recipe, run.dataset, run.mesh, run.teacher)
    if run.teacher and training.alignment.compares_patches:
        dense = DenseAlignment(run.recipe, run.dataset, run.mesh, run.teacher)
        pictures = PatchPictures(run.recipe, run.dataset, run.mesh, run.teacher, run.folder)
    return Evaluation(predict, losses, alignment, dense, pictures)


def _held_out_losses(run: Run) -> held_out.Losses:
    label, count = run.training.label, len(run.dataset.test)
    losses = held_out.compile_losses(
        run.recipe, run.program.abstract, run.teacher_network, run.mesh, run.dataset.image_shape
    )
    if skipped := [name for name in run.recipe.objectives if name not in losses.names]:
        console.note(
            f"[{label}] held-out loss of {' and '.join(skipped)} skipped: it compares each image"
            " with a memory of training images"
        )
    if losses.names and count < losses.batch_size:
        console.warn(
            f"[{label}] held-out loss skipped: {count:,} test images do not fill a batch of"
            f" {losses.batch_size}; check data.test_split and train.batch_size"
        )
    return losses


def evaluate(
    evaluation: Evaluation, run: Run, position: Position, stop: Callable[[], bool]
) -> EvaluationResults:
    """Evaluates the student at the end of an epoch on the test images and the validation images.

    Args:
      evaluation: the compiled evaluation of the run.
      run: the run.
      position: the position of the run.
      stop: polled after each batch; True stops.

    Raises:
      StoppedError: `stop` returned True.
    """
    state, epoch = position.state.evaluated, position.step // run.steps_per_epoch
    alignment, measured = {}, evaluation.alignment
    validation, validation_alignment = None, {}
    test = _evaluate_split(evaluation, run, state, run.dataset.test, stop)
    if measured:
        objectives = {name: state.objective(name) for name in run.recipe.terms}
        alignment = measured.measure(state.student, epoch, objectives, stop)
    if evaluation.dense:
        alignment |= evaluation.dense.measure(state.student, epoch, stop)
        evaluation.pictures.draw(state.student, epoch)
    if run.dataset.validation is not None:
        validation = _evaluate_split(evaluation, run, state, run.dataset.validation, stop)
        if measured and not run.dataset.labelled and measured.is_due(epoch):
            validation_alignment = measured.compare_validation(state.student, stop)
    return EvaluationResults(test, alignment, validation, validation_alignment)


def _evaluate_split(
    evaluation: Evaluation, run: Run, state: TrainState, split: Any, stop: Callable[[], bool]
) -> SplitResults:
    """Returns the student's predictions and held-out losses for a split."""
    training, predicted, losses = run.training, None, {}
    if evaluation.predict:
        predicted = predictions.collect(
            evaluation.predict, state.student, split, training.eval_batch_size, run.mesh, stop=stop
        )
    if evaluation.losses:
        teacher = run.teacher.variables if run.teacher_network else None
        losses = held_out.collect(evaluation.losses, state, teacher, split, run.mesh, stop)
    return SplitResults(predicted, losses)
