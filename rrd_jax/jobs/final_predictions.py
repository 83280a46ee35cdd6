"""Warnings about a student's predictions for the test images after its last epoch."""

from rrd_jax.data import label_checks
from rrd_jax.evaluation import predictions
from rrd_jax.jobs.run import Run
from rrd_jax.teacher import prediction_checks
from rrd_jax.terminal import console


def warn(run: Run, test: predictions.SplitPredictions) -> None:
    """Warns about permuted test labels, and about classes that are never predicted.

    A student that predicts a single class is reported as collapsed.
    """
    dataset, label = run.dataset, run.training.label
    if matched := prediction_checks.permuted_top1(test, dataset.num_classes):
        top1 = predictions.compute_metrics(test)["top1"]
        console.warn(
            f"[{label}] test top-1 is {top1:.1f} %, but {100 * matched:.1f} % with permuted"
            " classes: the test labels are numbered differently from the training labels; use the"
            " same numbers in both splits"
        )
        return
    missing = label_checks.never_predicted(test["prediction"], test["label"], dataset.class_names)
    if missing and (test["prediction"] != test["prediction"][0]).any():
        console.warn(f"[{label}] after the last epoch, {missing}; check their training images")
