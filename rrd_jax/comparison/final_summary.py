"""The last lines of a training job: comparison with the teacher, and next commands."""

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
      job: the finished job.
      folder: the workdir.
      results: results of the job's runs, the student's last.

    Returns:
      The lines; [] for a job on random images.
    """
    if job.student.source.mock_examples or not results:
        return []
    comparison = [_comparison(job, folder, results)] if job.teachers else []
    workdir = shlex.quote(str(folder))
    if not _num_classes(folder, 2):
        return [
            *comparison,
            "next steps (the network has no classifier):"
            f" rrd_jax.load({str(folder)!r}).embed(IMAGES) in Python, python -m rrd_jax.predict"
            f" --workdir={workdir} --embeddings --format=npz --output=FILE IMAGE..., or python -m"
            f" rrd_jax.export --workdir={workdir} --format=onnx",
        ]
    return [
        *comparison,
        f"next steps: python -m rrd_jax.predict --workdir={workdir} IMAGE..., or python -m"
        f" rrd_jax.export --workdir={workdir} --format=onnx"
        + (" (--report compares size and latency with the teacher)" if job.teachers else ""),
    ]


def print_summary(job: Job, folder: pathlib.Path, results: Sequence[Result]) -> None:
    """Prints the result of `lines`."""
    for line in lines(job, folder, results):
        console.say(line)


def _comparison(job: Job, folder: pathlib.Path, results: Sequence[Result]) -> str:
    student = results[-1]
    # The label of a trained teacher with a probe has two parts. The last result is used.
    by_label = {result.label.split(",")[0]: result for result in results[:-1]}
    labels = [teacher.teaching.label for teacher in job.teachers]
    teacher = by_label.get(labels[0]) if len(labels) == 1 else None
    top1 = f" (teacher {teacher.top1:.2f})" if teacher and teacher.top1 is not None else ""
    parts = [] if student.top1 is None else [f"top-1 {student.top1:.2f}" + top1]
    parts += [] if student.loss is None else [f"held-out loss {student.loss:.4f}"]
    parts += [] if student.agreement is None else [f"agreement {student.agreement:.2f}"]
    names = "+".join(teacher.network.model for teacher in job.teachers)
    parts.append(_shares(job, folder, student))
    return f"{student.model} compared with {names}: {', '.join(parts)}"


def _shares(job: Job, folder: pathlib.Path, student: Result) -> str:
    """Returns the student's parameters and multiply-adds as shares of those of all teachers."""
    training, size = job.student.training, job.student.source.image_size
    student_preprocessing = Preprocessing(size, len(training.mean), training.mean, training.std)
    num_classes = _num_classes(folder, 2)
    summary = networks.summarize(
        training.network.create(num_classes), student_preprocessing.image_shape
    )
    teachers = [
        networks.summarize(
            teacher.network.create(_num_classes(path, num_classes)),
            _teacher_preprocessing(teacher, path, student_preprocessing).image_shape,
        )
        for teacher, path in zip(job.teachers, teacher_paths(job, folder), strict=True)
    ]
    parameters = sum(teacher.parameters for teacher in teachers)
    macs = max(1, sum(teacher.macs for teacher in teachers))
    return (
        f"{100 * student.parameters / parameters:.3g} % of the parameters"
        f" ({student.parameters:,} of {parameters:,}) and"
        f" {100 * summary.macs / macs:.3g} % of the multiply-adds ({summary.macs:,} of {macs:,})"
    )


def _teacher_preprocessing(
    teacher: TeacherChoice, path: pathlib.Path, student: Preprocessing
) -> Preprocessing:
    model = teacher.network.model
    stored = None if teacher.variables is not None else files.preprocessing_of(path, model)
    return preprocessing.for_teacher(teacher.teaching, stored, student) or student


def _num_classes(folder: pathlib.Path, default: int) -> int:
    """Returns the number of classes in a run's newest checkpoint, or `default` without one."""
    meta = checkpoints.read_meta(folder / "checkpoints")
    return meta["num_classes"] if meta else default
