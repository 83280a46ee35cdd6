"""An epoch of a run: sums of its losses, figures at its end, and warnings about both."""

import math
from typing import Any, NamedTuple

import numpy as np

from rrd_jax import checkpoints, errors
from rrd_jax.data import sanity
from rrd_jax.evaluation import predictions
from rrd_jax.jobs.run import Position, Run
from rrd_jax.terminal import console


class EvaluationResults(NamedTuple):
    """Results of the evaluation at the end of an epoch.

    Attributes:
      predictions: for the test split; None if the student has no classes.
      losses: on held-out images, for a student without labels.
      alignment: figures of the student beside its teacher, by name.
    """

    predictions: predictions.Predictions | None
    losses: dict[str, float]
    alignment: dict[str, float]


def add(run: Run, position: Position, logged: dict[str, np.ndarray], first: int) -> None:
    """Adds the scalars that steps have logged to the epoch's sums.

    Args:
      run: the run.
      position: where it stands.
      logged: a value of each scalar for each step.
      first: the first of these steps, counted from 1.

    Raises:
      DivergedError: a loss is not finite.
    """
    if broken := sanity.first_not_finite(logged):
        place, names = broken
        values = {name: values[place] for name, values in logged.items()}
        raise _losses_not_finite(run, first + place, names, values)
    sums = position.progress.sums
    for name, values in logged.items():
        for value in values:
            sums[name] = sums.get(name, 0.0) + float(value)


def mean_losses(run: Run, position: Position) -> dict[str, float]:
    """Returns the mean of each loss over the current epoch's steps."""
    done = (position.step - 1) % run.steps_per_epoch + 1
    return {k: v / done for k, v in position.progress.sums.items() if k.startswith("loss")}


def learning_rate(run: Run, position: Position) -> float:
    """Returns the rate of the last step; NaN if an optimizer made in Python keeps its own rate."""
    return float(run.recipe.schedule(position.step - 1))


def end(
    run: Run, position: Position, tested: EvaluationResults, speeds: dict[str, float]
) -> dict[str, Any]:
    """Ends an epoch; returns its row of figures.

    Args:
      run: the run.
      position: where it stands; its progress moves to the next epoch.
      tested: the evaluation of the student.
      speeds: of the epoch, as entries of the row.

    Raises:
      DivergedError: the test loss is not finite.
      InputError: a test label is out of range.
    """
    labelled, progress = run.dataset.labelled, position.progress
    if labelled:
        sanity.check_labels(tested.predictions["label"], run.dataset.num_classes, "test")
    test = {f"test/{name}": value for name, value in _figures(run, position, tested).items()}
    means = {name: value / run.steps_per_epoch for name, value in progress.sums.items()}
    progress.sums, progress.epoch = {}, position.step // run.steps_per_epoch
    if labelled:
        means["top1"] *= 100
        _warn_of_collapse(run, position, tested.predictions)
    if progress.epoch == 1:
        _warn_of_zeros(run, means)
        _warn_of_unchanged_weights(run, position)
    _keep_best(run, position, test)
    rate = learning_rate(run, position)
    return {
        "epoch": progress.epoch,
        "step": position.step,
        **({} if math.isnan(rate) else {"learning_rate": rate}),
        **{f"train/{name}": value for name, value in means.items()},
        **test,
        **{f"proof/{name}": value for name, value in tested.alignment.items()},
        **{f"best/{name}": value for name, value in progress.best.items()},
        **speeds,
    }


def _figures(run: Run, position: Position, tested: EvaluationResults) -> dict[str, float]:
    """Returns figures of the test split; raises a DivergedError if the loss is not finite."""
    reference = run.teacher.reference if run.teacher else None
    advice = "look at optimizer.learning_rate, and at train.ema if it is set"
    if not run.dataset.labelled:
        if not math.isfinite(tested.losses.get("loss", 0.0)):
            reason = f"the loss of held-out images is not finite after step {position.step}"
            raise _diverged(run, reason, advice)
        agreement = {}
        if tested.predictions and reference:
            agreement = predictions.agreement(tested.predictions, reference)
        return agreement | tested.losses
    figures = predictions.figures(tested.predictions, reference)
    if not math.isfinite(figures["loss"]):
        losses = tested.predictions["loss"]
        bad = np.flatnonzero(~np.isfinite(losses))
        reason = (
            f"the test loss of {len(bad)} of {len(losses)} images is not finite after step"
            f" {position.step}, first that of example {bad[0]}"
        )
        raise _diverged(run, reason, advice)
    return figures


def _keep_best(run: Run, position: Position, test: dict[str, float]) -> None:
    """Keeps the best figure so far: the highest top-1, without labels the lowest loss."""
    progress = position.progress
    if run.dataset.labelled:
        if test["test/top1"] > progress.best["top1"]:
            progress.best = {"top1": test["test/top1"], "epoch": progress.epoch}
    elif "test/loss" in test and test["test/loss"] < progress.best.get("loss", math.inf):
        progress.best = {"loss": test["test/loss"], "epoch": progress.epoch}


def _warn_of_collapse(run: Run, position: Position, tested: predictions.Predictions) -> None:
    """Warns, once, of a student that predicts nearly the same for every test image.

    One epoch of it is accepted, except the last: early on, running statistics are inaccurate.
    """
    doubt = sanity.prediction_warning(tested)
    position.collapsed = position.collapsed + 1 if doubt else 0
    epoch, epochs = position.progress.epoch, run.training.epochs
    if position.collapsed == 2 or (position.collapsed == 1 and epoch == epochs):
        console.warn(
            f"[{run.training.label}] after epoch {epoch} of {epochs} {doubt}; look at"
            f" optimizer.learning_rate ({learning_rate(run, position):.3g}), the weights of the"
            " objectives and the labels"
        )


def _warn_of_zeros(run: Run, means: dict[str, float]) -> None:
    """Warns of objectives whose loss was 0 throughout the first epoch."""
    zeros = [name for name, mean in means.items() if name.startswith("loss/") and mean == 0]
    if zeros:
        names = " and ".join(name.removeprefix("loss/") for name in zeros)
        console.warn(
            f"[{run.training.label}] the loss of {names} was 0 at every step of the first epoch:"
            " nothing was learnt from it; look at what it compares"
        )


def _warn_of_unchanged_weights(run: Run, position: Position) -> None:
    """Warns of a student whose weights the first epoch did not change."""
    first = position.first_weights
    if first and checkpoints.digest(position.state.params["student"]) == first:
        console.warn(
            f"[{run.training.label}] the weights are those that the run began with, after its first"
            " epoch: the optimizer moves nothing; look at its learning rate, and whether the loss"
            " depends on the student"
        )


def _losses_not_finite(
    run: Run, step: int, names: list[str], values: dict[str, float]
) -> errors.DivergedError:
    """Creates the error for losses that are not finite in a step.

    Args:
      run: the run.
      step: counted from 1.
      names: the scalars that are not finite.
      values: all scalars of the step.
    """
    terms = [name.removeprefix("loss/") for name in names if name.startswith("loss/")]
    numbers = ", ".join(
        f"{name.removeprefix('loss/')} {value:.4g}"
        for name, value in values.items()
        if name.startswith("loss/")
    )
    broken = " and ".join(terms) or "their weighted sum"
    places = [f"objectives.{name}" for name in terms] or ["the weights of objectives"]
    if step == 1:  # No update has been made, so that the inputs are to blame.
        places += ["data.mean and data.std"]
        places += ["the teacher's weights"] if run.teacher_network else []
    else:
        rate = run.training.optimizer.learning_rate
        places = [f"optimizer.learning_rate (here {rate:g})", "optimizer.clip_norm", *places]
        if run.recipe.schedule(0) == 0:  # Some optimizers, such as prodigy, divide by the rate.
            places += ["optimizer.warmup_start (the first rate is 0)"]
    if run.recipe.student.dtype != np.float32:
        places += [f"dtype (here {np.dtype(run.recipe.student.dtype).name})"]
    return _diverged(
        run,
        f"the losses are not finite from step {step} on: {broken} ({numbers})",
        f"look at {', '.join(places)}",
    )


def _diverged(run: Run, reason: str, advice: str) -> errors.DivergedError:
    run.checkpoints.wait()
    kept = run.checkpoints
    return errors.DivergedError(f"{reason}; {advice}; {kept.kept} in {kept.folder}")
