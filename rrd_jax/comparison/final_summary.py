"""The lines that training ends with: the student beside its teacher, and the next commands."""

import pathlib
import shlex
from collections.abc import Sequence

from rrd_jax import checkpoints, networks
from rrd_jax.data.model_info import Preprocessing
from rrd_jax.jobs.job import teacher_paths
from rrd_jax.jobs.progress import Result
from rrd_jax.teacher import preprocessing
from rrd_jax.terminal import console
from rrd_jax.training.recipe import Job, TeacherChoice
from rrd_jax.weights import files


def lines(job: Job, folder: pathlib.Path, results: Sequence[Result]) -> list[str]:
    """Returns the comparison with the teacher, and commands that use the student.

    Args:
      job: that has finished.
      folder: the workdir.
      results: of its runs, the student last.

    Returns:
      The lines; none for a job on random images.
    """
    if job.student.source.mock_examples or not results:
        return []
    comparison = [_comparison(job, folder, results)] if job.teachers else []
    place = shlex.quote(str(folder))
    if not _num_classes(folder, 2):
        return [
            *comparison,
            f"use it: rrd_jax.load({str(folder)!r}).embed(IMAGES) in Python, python -m"
            f" rrd_jax.predict --workdir={place} --embeddings --format=npz --output=FILE IMAGE...,"
            f" or python -m rrd_jax.export --workdir={place} --format=onnx; it has no classifier",
        ]
    return [
        *comparison,
        f"use it: python -m rrd_jax.predict --workdir={place} IMAGE..., or python -m rrd_jax.export"
        f" --workdir={place} --format=onnx"
        + (" (--report: size and latency beside the teacher)" if job.teachers else ""),
    ]


def print_summary(job: Job, folder: pathlib.Path, results: Sequence[Result]) -> None:
    """Prints the lines."""
    for line in lines(job, folder, results):
        console.say(line)


def _comparison(job: Job, folder: pathlib.Path, results: Sequence[Result]) -> str:
    student = results[-1]
    # The label of a trained teacher with a probe has two parts; the last result counts.
    known = {result.label.split(",")[0]: result for result in results[:-1]}
    labels = [teacher.teaching.label for teacher in job.teachers]
    top1 = f" of {known[labels[0]].top1:.2f}" if len(labels) == 1 and labels[0] in known else ""
    figures = [] if student.top1 is None else [f"top-1 {student.top1:.2f}" + top1]
    figures += [] if student.loss is None else [f"loss of held-out images {student.loss:.4f}"]
    figures += [] if student.agreement is None else [f"agreement {student.agreement:.2f}"]
    names = "+".join(teacher.network.model for teacher in job.teachers)
    return (
        f"{student.model} beside {names}: {', '.join(figures)}{', ' if figures else ''}"
        f"{_shares(job, folder, student)}"
    )


def _shares(job: Job, folder: pathlib.Path, student: Result) -> str:
    """Returns the student's share of the parameters and multiply-adds of all teachers."""
    training, size = job.student.training, job.student.source.image_size
    form = Preprocessing(size, len(training.mean), training.mean, training.std)
    num_classes = _num_classes(folder, 2)
    summary = networks.summarize(training.network.create(num_classes), form.image_shape)
    of_teachers = [
        networks.summarize(
            teacher.network.create(_num_classes(path, num_classes)),
            _seen(teacher, path, form).image_shape,
        )
        for teacher, path in zip(job.teachers, teacher_paths(job, folder), strict=True)
    ]
    parameters = sum(teacher.parameters for teacher in of_teachers)
    macs = max(1, sum(teacher.macs for teacher in of_teachers))
    return (
        f"{100 * student.parameters / parameters:.3g} % of the parameters"
        f" ({student.parameters:,} of {parameters:,}) and"
        f" {100 * summary.macs / macs:.3g} % of the multiply-adds ({summary.macs:,} of {macs:,})"
    )


def _seen(teacher: TeacherChoice, path: pathlib.Path, student: Preprocessing) -> Preprocessing:
    """What a teacher sees."""
    model = teacher.network.model
    known = None if teacher.variables is not None else files.preprocessing_of(path, model)
    return preprocessing.for_teacher(teacher.teaching, known, student) or student


def _num_classes(folder: pathlib.Path, otherwise: int) -> int:
    """Returns the number of classes of a run's newest checkpoint."""
    meta = checkpoints.read_meta(folder / "checkpoints")
    return meta["num_classes"] if meta else otherwise
