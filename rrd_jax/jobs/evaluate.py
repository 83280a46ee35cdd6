"""Evaluation of trained networks on the test split, for `--mode=eval` of main."""

import dataclasses
import pathlib
from typing import Any

from rrd_jax import checkpoints, data, errors
from rrd_jax.evaluation import predictions
from rrd_jax.jobs import job, robustness, run_info
from rrd_jax.run_folder import workdir
from rrd_jax.teacher import frozen
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.terminal import console, interrupts, tables
from rrd_jax.training.recipe import Job, Training
from rrd_jax.weights import files

# Fields of the section `data` that change test images, in the order of messages.
_PREPROCESSING = ("image_size", "resize", "mean", "std", "background")


def run(plan: Job, folder: pathlib.Path) -> list[dict[str, Any]]:
    """Evaluates the student in `folder` and the job's teachers on the test split.

    The student is the newest checkpoint of a run, the checkpoint RUN@best, RUN@last or RUN@STEP, or
    a network of `rrd_jax.convert`. The teacher is config.teacher.checkpoint, or `folder`/teacher;
    several teachers are evaluated individually and as an ensemble. Teachers or the student may be
    missing.

    Args:
      plan: the job.
      folder: the workdir of the student, with @best, @last or @STEP for a checkpoint other than the
        newest. Evaluation writes only the results of eval.robust to this folder.

    Returns:
      A dict per network, teachers first: `run`, `network`, `images`, `top1` and `top5` in percent,
      `loss` in nats, `agreement` of the student with the teacher in percent or None, `parameters`
      and `checkpoint`.

    Raises:
      InputError: no network exists, or a checkpoint is damaged or of another network or data set.
    """
    run_folder, checkpoint_name = files.split(folder)
    paths = zip(plan.teachers, job.teacher_paths(plan, run_folder), strict=True)
    choices = [(t, path) for t, path in paths if t.checkpoint or path.exists()]
    has_student = (run_folder / "checkpoints").exists()
    if checkpoint_name and not has_student:
        raise errors.InputError(
            f"{run_folder} has no checkpoints, so @{checkpoint_name} does not exist; pass the"
            " --workdir of a run"
        )
    if not choices and not has_student:
        raise errors.InputError(
            f"nothing to evaluate: {folder} has no checkpoints; pass the --workdir of a run, or a"
            " teacher with --config.teacher.checkpoint"
        )
    setting = job.prepare(plan.student)
    if not setting.dataset.labelled:
        raise errors.InputError(
            "data.use_labels is False, but --mode=eval and eval.robust require labels; see"
            " metrics.jsonl in the workdir for the metrics of a student without labels, or evaluate"
            " a student with a classifier on labeled images with --config.data.use_labels=True"
        )
    training = plan.student.training
    teachers = []
    for choice, path in choices:
        interrupts.check()
        teacher = frozen.load(
            choice.network,
            path,
            setting.dataset,
            setting.mesh,
            training,
            teaching=choice.teaching,
        )
        teachers.append(frozen.with_probe(teacher, choice.teaching, run_folder, store=False))
    models = [choice.network.model for choice, _ in choices]
    labels = [", ".join(filter(None, ("teacher", c.teaching.classifier))) for c, _ in choices]
    locations = [str(path) for _, path in choices]
    # Teachers without the classes of the data have no metrics.
    rows = [
        _row(label, model, location, network)
        for label, model, location, network in zip(labels, models, locations, teachers, strict=True)
        if network.compares
    ]
    teacher = None
    if teachers and len(teachers) == len(plan.teachers):
        teacher = frozen.combine(teachers, training.teacher_weights)
    if teacher and len(teachers) > 1 and teacher.compares:
        rows.append(_row("teachers", "+".join(models), "+".join(locations), teacher))
    if has_student:
        _warn_about_preprocessing(run_folder, setting.dataset, training)
        terms = training.create_objectives(len(setting.dataset.train))
        student = frozen.load(
            training.network, folder, setting.dataset, setting.mesh, training, terms
        )
        student = dataclasses.replace(student, description="the student")
        label = "student" if plan.teachers else training.label
        rows.append(_row(label, training.network.model, str(folder), student, teacher))
    if not plan.student.source.mock_examples:
        for network in (*teachers, *([student] if has_student else [])):
            network.examine()
    console.print_table(*table(rows))
    if training.robustness.names:
        networks = {label: student} if has_student else {}
        if teacher:
            networks["teacher"] = teacher
        robustness.run(training.robustness, networks, run_folder, checkpoint_name)
    return rows


def _warn_about_preprocessing(
    folder: pathlib.Path, dataset: data.Dataset, training: Training
) -> None:
    """Warns about test images that are preprocessed unlike those of the student's run.

    Args:
      folder: the run folder.
      dataset: the data set of the current config.
      training: the settings of the current config.
    """
    meta = checkpoints.read_meta(folder / "checkpoints")
    if meta is None:
        return
    about = run_info.describe_checkpoint(meta, workdir.read_fields(folder), folder)
    current = run_info.preprocessing(dataset, training.mean, training.std)
    stored = about.preprocessing or current
    names = [f"data.{n}" for n in _PREPROCESSING if getattr(stored, n) != getattr(current, n)]
    if names:
        before, now = (
            ", ".join(str(getattr(images, name.partition(".")[2])) for name in names)
            for images in (stored, current)
        )
        console.warn(
            f"the network in {folder} was trained with {', '.join(names)} {before}, but is tested"
            f" with {now}; for the accuracy of the run, pass the config that it was trained with"
        )


def _row(
    run: str,
    model: str,
    checkpoint: str,
    network: FrozenNetwork,
    teacher: FrozenNetwork | None = None,
) -> dict[str, Any]:
    test_predictions = network.predictions
    return {
        "run": run,
        "network": model,
        "images": len(test_predictions["label"]),
        "agreement": None,
        **predictions.compute_metrics(test_predictions, teacher.reference if teacher else None),
        "parameters": network.parameters,
        "checkpoint": checkpoint,
    }


def table(rows: list[dict[str, Any]]) -> tables.Table:
    """Returns the header and the rows of a table with one row per network."""
    header = (
        "run",
        "network",
        "test images",
        "top-1",
        "top-5",
        "loss",
        "agreement with teacher",
        "parameters",
        "checkpoint",
    )
    cells = [
        (
            row["run"],
            row["network"],
            f"{row['images']:,}",
            f"{row['top1']:.2f}",
            f"{row['top5']:.2f}",
            f"{row['loss']:.4f}",
            "-" if row["agreement"] is None else f"{row['agreement']:.2f}",
            f"{row['parameters']:,}",
            row["checkpoint"],
        )
        for row in rows
    ]
    return header, cells
