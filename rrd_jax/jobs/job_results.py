"""Results of a job: the rows of its teachers, and the table at its end."""

import pathlib
from collections.abc import Sequence

from rrd_jax import user_paths
from rrd_jax.evaluation import predictions
from rrd_jax.jobs.progress import Result
from rrd_jax.run_folder import metrics_writer
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.terminal import tables
from rrd_jax.training import criterion
from rrd_jax.training.recipe import Job

FILE = "results.json"


def of_teachers(
    job: Job,
    folder: pathlib.Path,
    teacher: FrozenNetwork,
    paths: Sequence[pathlib.Path],
    trained: Sequence[Result],
) -> list[Result]:
    """Returns the results of all teachers, in their order.

    A teacher whose classifier is not its own has a second row if the job trained the teacher.
    Training has computed the predictions of teachers from elsewhere for the test split. If the job
    was finished before this start, their results are read from `folder`.

    Args:
      job: the job.
      folder: the job's workdir.
      teacher: the teacher or the ensemble of the runs.
      paths: path of each teacher's weights.
      trained: the results of the teachers that the job trained.
    """
    stored, by_label = _stored(folder), {result.label: result for result in trained}
    results = []
    for choice, path, member in zip(job.teachers, paths, teacher.members, strict=True):
        label, classifier = choice.teaching.label, choice.teaching.classifier
        if label in by_label:
            results.append(by_label[label])
            if not classifier:
                continue
        label = ", ".join(filter(None, (label, classifier)))
        location = "" if choice.variables is not None else str(path)
        previous = stored.get(label)
        if previous and previous.checkpoint == location and not member.has_predicted:
            results.append(previous)
            continue
        top1 = None
        if member.dataset.labelled and member.compares:
            top1 = predictions.compute_metrics(member.predictions)["top1"]
        results.append(
            Result(
                label=label,
                model=choice.network.model,
                top1=top1,
                best_top1=None,
                best_epoch=0,
                agreement=None,
                parameters=member.parameters,
                seconds=0.0,
                checkpoint=location,
            )
        )
    return results


def _stored(folder: pathlib.Path) -> dict[str, Result]:
    """Reads the results of an earlier start by label; {} without results of this version."""
    try:
        results = [Result(**row) for row in user_paths.read_json(folder / FILE)]
    except (OSError, ValueError, TypeError):
        return {}
    return {result.label: result for result in results}


def table(results: list[Result], scratch: Result | None = None) -> tables.Table:
    """Returns the header and the rows of a job's results.

    Args:
      results: results of the runs, the student's last.
      scratch: result of the student from random weights; None if this run is not part of the job.
    """
    gains = _gains(results[-1], scratch)
    unlabelled = any(result.top1 is None for result in results)
    validated = any((result.val or {}).get("top1") is not None for result in results)
    # The criterion without labels, which all unlabeled runs of a job share.
    by = next((result.best_by for result in results if result.top1 is None and result.best_by), "")
    header = (
        "run",
        "network",
        *(("validation top-1, last epoch",) if validated else ()),
        "test top-1, last epoch",
        "test top-1, best by validation images (epoch)"
        if validated
        else "best by test images (epoch)",
        *(("over random weights",) if gains else ()),
        *(("held-out loss, last epoch",) if unlabelled else ()),
        *((f"{criterion.describe(by)}, last epoch", "best (epoch)") if by else ()),
        "agreement with teacher",
        "parameters",
        "wall time",
        "checkpoints",
    )
    rows = [
        (
            result.label,
            result.model,
            *((_format((result.val or {}).get("top1")),) if validated else ()),
            *_last_and_best(result.top1, result.best_top1, result.best_epoch),
            *((gains.get(result.label, "-"),) if gains else ()),
            *((_format(result.loss, 4),) if unlabelled else ()),
            *(_criterion_cells(result) if by else ()),
            "-" if result.agreement is None else f"{result.agreement:.2f}",
            f"{result.parameters:,}",
            metrics_writer.duration(result.seconds) if result.seconds else "-",
            result.checkpoint,
        )
        for result in results
    ]
    return header, rows


def _gains(student: Result, scratch: Result | None) -> dict[str, str]:
    """Returns the student's gain in top-1 over random initial weights, by label; {} if unknown."""
    if scratch is None or student.top1 is None or scratch.top1 is None:
        return {}
    return {student.label: f"{student.top1 - scratch.top1:+.2f}"}


def _criterion_cells(result: Result) -> tuple[str, str]:
    """Formats the criterion of a run without labels."""
    if result.top1 is not None:
        return "-", "-"
    return _last_and_best(result.score, result.best_score, result.best_epoch)


def _last_and_best(last: float | None, best: float | None, epoch: int) -> tuple[str, str]:
    """Formats a metric of the last and of the best epoch; "-" for a missing value."""
    return _format(last), "-" if best is None else f"{best:.2f} ({epoch})"


def _format(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
