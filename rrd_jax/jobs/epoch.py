"""Epochs of a run: sums of losses, metrics at the end of the epoch, and warnings about both."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rrd_jax import errors
from rrd_jax.data import sanity
from rrd_jax.evaluation import predictions
from rrd_jax.jobs import final_predictions
from rrd_jax.jobs.run import Position, Run, sample_weights
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.terminal import console
from rrd_jax.training import criterion


class SplitResults(NamedTuple):
    """Results of the evaluation on a split.

    Attributes:
      predictions: predictions for the split; None if the student has no classes.
      losses: losses on the images of the split; empty for a student with labels.
    """

    predictions: predictions.SplitPredictions | None
    losses: dict[str, float]


class EvaluationResults(NamedTuple):
    """Results of the evaluation at the end of an epoch.

    Attributes:
      test: results on the test images.
      alignment: alignment metrics of student and teacher on test images, by name.
      validation: results on the validation images; None without validation images.
      validation_alignment: alignment metrics on validation images; empty with labels.
    """

    test: SplitResults
    alignment: dict[str, float]
    validation: SplitResults | None
    validation_alignment: dict[str, float]


def add(run: Run, position: Position, logged: dict[str, np.ndarray], first: int) -> None:
    """Adds the logged scalars of steps to the sums of the epoch.

    Args:
      run: the run.
      position: the position of the run.
      logged: values of each scalar, one per step.
      first: the first of these steps, counted from 1.

    Raises:
      DivergedError: a loss is not finite.
    """
    if invalid := sanity.first_not_finite(logged):
        offset, names = invalid
        values = {name: values[offset] for name, values in logged.items()}
        raise _losses_not_finite(run, first + offset, names, values)
    sums = position.progress.sums
    for name, values in logged.items():
        for value in values:
            sums[name] = sums.get(name, 0.0) + float(value)


def mean_losses(run: Run, position: Position) -> dict[str, float]:
    """Returns the mean of each loss over the current epoch's steps."""
    done = (position.step - 1) % run.steps_per_epoch + 1
    return {k: v / done for k, v in position.progress.sums.items() if k.startswith("loss")}


def learning_rate(run: Run, position: Position) -> float:
    """Returns the learning rate of the last step; NaN for a custom Optax optimizer."""
    return float(run.recipe.schedule(position.step - 1))


def end(
    run: Run, position: Position, results: EvaluationResults, speeds: dict[str, float]
) -> dict[str, Any]:
    """Ends an epoch and returns its row of metrics.

    Args:
      run: the run.
      position: the position of the run; its progress moves to the next epoch.
      results: the evaluation of the student.
      speeds: speed of the epoch, as entries of the row.

    Raises:
      DivergedError: the test or validation loss is not finite.
      InputError: a label is out of range.
    """
    labelled, progress = run.dataset.labelled, position.progress
    teacher = run.teacher
    test = _split_metrics(run, position, results.test, teacher, "test")
    validation = {}
    if results.validation:
        teacher = teacher and teacher.on_validation
        validation = _split_metrics(run, position, results.validation, teacher, "val")
        validation |= _prefixed("val", results.validation_alignment)
    proof = _prefixed("proof", results.alignment)
    means = {name: value / run.steps_per_epoch for name, value in progress.sums.items()}
    progress.sums, progress.epoch = {}, position.step // run.steps_per_epoch
    if labelled:
        means["top1"] *= 100
        _warn_about_collapse(run, position, results.test.predictions)
        if progress.epoch == run.training.epochs:
            final_predictions.warn(run, results.test.predictions)
    if progress.epoch == 1:
        _warn_about_zero_losses(run, means)
        _warn_about_unchanged_weights(run, position)
    _update_best(run, position, test | validation | proof)
    rate = learning_rate(run, position)
    return {
        "epoch": progress.epoch,
        "step": position.step,
        **({} if math.isnan(rate) else {"learning_rate": rate}),
        **{f"train/{name}": value for name, value in means.items()},
        **test,
        **validation,
        **proof,
        **_prefixed("best", progress.best),
        **speeds,
    }


def _prefixed(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def _split_metrics(
    run: Run, position: Position, results: SplitResults, teacher: FrozenNetwork | None, name: str
) -> dict[str, float]:
    """Returns metrics of a split, with the split's name as prefix.

    Raises:
      DivergedError: the loss is not finite.
      InputError: a label is out of range.
    """
    metrics = _metrics(run, position, results, teacher and teacher.reference, name)
    return _prefixed(name, metrics)


def _metrics(
    run: Run,
    position: Position,
    results: SplitResults,
    reference: predictions.SplitPredictions | None,
    name: str,
) -> dict[str, float]:
    advice = "check optimizer.learning_rate, and train.ema if it is set"
    if not run.dataset.labelled:
        if not math.isfinite(results.losses.get("loss", 0.0)):
            reason = f"the held-out loss is not finite after step {position.step}"
            raise _diverged(run, reason, advice)
        agreement = {}
        if results.predictions and reference:
            agreement = predictions.agreement(results.predictions, reference)
        return agreement | results.losses
    sanity.check_labels(results.predictions["label"], run.dataset.num_classes, name)
    metrics = predictions.compute_metrics(results.predictions, reference)
    if invalid := predictions.invalid(results.predictions):
        reason = f"after step {position.step}, in the {name} split, {invalid}"
        raise _diverged(run, reason, advice)
    return metrics


def _update_best(run: Run, position: Position, metrics: Mapping[str, float]) -> None:
    """Updates the best epoch so far, unless the criterion was not measured in this epoch."""
    progress, key = position.progress, criterion.key(run.criterion)
    if metrics.get(run.criterion, -math.inf) <= progress.best.get(key, -1.0):
        return
    reported = "top1" if run.dataset.labelled else "loss"
    progress.best = {"epoch": progress.epoch, key: metrics[run.criterion]}
    if f"test/{reported}" in metrics:
        progress.best[reported] = metrics[f"test/{reported}"]


def _warn_about_collapse(
    run: Run, position: Position, test_predictions: predictions.SplitPredictions
) -> None:
    """Warns once about a student with nearly constant test predictions.

    A single epoch does not cause a warning unless it is the last epoch, because running statistics
    are inaccurate at the beginning.
    """
    warning = sanity.prediction_warning(test_predictions)
    position.collapsed = position.collapsed + 1 if warning else 0
    epoch, epochs = position.progress.epoch, run.training.epochs
    if position.collapsed == 2 or (position.collapsed == 1 and epoch == epochs):
        rate = learning_rate(run, position)
        value = "" if math.isnan(rate) else f" ({rate:.3g})"
        console.warn(
            f"[{run.training.label}] after epoch {epoch} of {epochs} {warning}; check the learning"
            f" rate{value}, the weights of the objectives and the labels"
        )


def _warn_about_zero_losses(run: Run, means: dict[str, float]) -> None:
    """Warns about objectives whose loss was 0 in all steps of the first epoch."""
    # An objective with a stage may have trained the student before.
    zeros = [
        name
        for name, objective in run.recipe.objectives.items()
        if means.get(f"loss/{name}") == 0 and not objective.stage
    ]
    if zeros:
        names = " and ".join(zeros)
        console.warn(
            f"[{run.training.label}] the loss of {names} was 0 in every step of the first epoch and"
            " trained nothing; check which outputs the objective compares"
        )


def _warn_about_unchanged_weights(run: Run, position: Position) -> None:
    """Warns about a student whose weights the first epoch did not change, or only decayed."""
    first = position.first_weights
    if not first:
        return
    now = sample_weights(run, position.state)
    if all(np.array_equal(now[name], before) for name, before in first.items()):
        change = "did not change the student's weights"
    elif all(_is_scaled(before, now[name], position.step) for name, before in first.items()):
        change = "changed the student's weights by weight decay alone"
    else:
        return
    console.warn(
        f"[{run.training.label}] the first epoch {change}, so nothing was learnt; check the"
        " learning rate, and that the loss depends on the student"
    )


def _is_scaled(before: np.ndarray, now: np.ndarray, steps: int) -> bool:
    """Returns True if an array is a multiple of another one, up to the rounding of `steps`."""
    before, now = (array.astype(np.float64).ravel() for array in (before, now))
    factor = float(before @ now) / max(float(before @ before), 1e-300)
    limit = 1e-6 * math.sqrt(steps) * np.abs(before).max(initial=0)
    return bool(np.abs(now - factor * before).max(initial=0) <= limit)


def _losses_not_finite(
    run: Run, step: int, names: list[str], values: dict[str, float]
) -> errors.DivergedError:
    """Creates the error for losses that are not finite.

    Args:
      run: the run.
      step: the first such step, counted from 1.
      names: names of the scalars that are not finite.
      values: all scalars of the step.
    """
    terms = [name.removeprefix("loss/") for name in names if name.startswith("loss/")]
    numbers = ", ".join(
        f"{name.removeprefix('loss/')} {value:.4g}"
        for name, value in values.items()
        if name.startswith("loss/")
    )
    invalid = " and ".join(terms) or "their weighted sum"
    # The loss of a teacher, such as rrd[0], belongs to the objective rrd.
    fields = dict.fromkeys(f"objectives.{name.partition('[')[0]}" for name in terms)
    causes = list(fields) or ["the weights of objectives"]
    if step == 1:
        # The first step follows no update, so the cause is an input.
        causes += ["data.mean and data.std"]
        causes += ["the teacher's weights"] if run.teacher_network else []
    else:
        first_rate = run.recipe.schedule(0)
        if math.isnan(first_rate):
            causes = ["the learning rate of the optimizer", *causes]
        else:
            rate = run.training.optimizer.learning_rate
            causes = [f"optimizer.learning_rate (here {rate:g})", "optimizer.clip_norm", *causes]
        # Some optimizers, such as prodigy, divide by the learning rate.
        if first_rate == 0:
            causes += ["optimizer.warmup_start (the first rate is 0)"]
    if run.recipe.student.dtype != np.float32:
        causes += [f"dtype (here {np.dtype(run.recipe.student.dtype).name})"]
    return _diverged(
        run,
        f"the losses are not finite from step {step} on: {invalid} ({numbers})",
        f"check {', '.join(causes)}",
    )


def _diverged(run: Run, reason: str, advice: str) -> errors.DivergedError:
    run.checkpoints.wait()
    manager = run.checkpoints
    return errors.DivergedError(f"{reason}; {advice}; {manager.status} in {manager.folder}")
