"""Checks that a run learns from one teacher: the same weights at each start, never its own."""

import pathlib
from collections.abc import Iterator, Sequence

from rrd_jax import checkpoints, errors
from rrd_jax.jobs.progress import finished
from rrd_jax.run_folder import workdir
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.terminal import console
from rrd_jax.training.recipe import Job
from rrd_jax.weights import files


def check_paths(job: Job, folder: pathlib.Path, paths: Sequence[pathlib.Path]) -> None:
    """Checks the locations of a job's teachers before anything is loaded or trained.

    Args:
      job: the job.
      folder: the workdir of the job.
      paths: path of each teacher's weights, which may not exist before training.

    Raises:
      InputError: a teacher is the job's student or one of its comparison runs; or the student has
        learnt from a checkpoint, but this start would train another teacher.
    """
    runs = [folder, *(folder / name for name in job.comparisons)]
    stored = workdir.read_fields(folder) if _has_checkpoints(folder) else None
    sections = (stored or {}).get("teacher") or []
    sections = sections if isinstance(sections, list) else [sections]
    recorded = [section.get("checkpoint") for section in sections if section.get("model")]
    for i, (teacher, path) in enumerate(zip(job.teachers, paths, strict=True)):
        if teacher.checkpoint and any(_is_inside(path, run) for run in runs):
            raise errors.InputError(
                f"teacher.checkpoint is {teacher.checkpoint}, which this job trains itself in"
                f" {folder}, but a student cannot be its own teacher; pass another checkpoint, or"
                " another --workdir"
            )
        previous = recorded[i] if i < len(recorded) else ""
        is_tuned = bool(teacher.part.fields["student"]["checkpoint"])
        if teacher.is_trained_here and not is_tuned and previous and not finished(path, 0):
            raise errors.InputError(
                f"the run in {folder} learns from the teacher in {previous}, but teacher.checkpoint"
                f" is empty, which trains another teacher; pass"
                f" --config.teacher.checkpoint={previous}, or another --workdir"
            )


def _has_checkpoints(run: pathlib.Path) -> bool:
    return any((run / "checkpoints").glob("[0-9]*"))


def _is_inside(path: pathlib.Path, run: pathlib.Path) -> bool:
    """Returns True if a path, with or without links, is a run, its checkpoints or its stage."""
    home, run = files.split(path)[0].resolve(), run.resolve()
    is_stage = home.parent == run and home.name.startswith("before-")
    return home == run or is_stage or run / "checkpoints" in (home, *home.parents)


def check_weights(runs: Sequence[pathlib.Path], teacher: FrozenNetwork) -> None:
    """Compares the weights of a teacher with those that the checkpoints of runs record.

    Args:
      runs: run folders, with or without checkpoints.
      teacher: the teacher or the ensemble of this start.

    Raises:
      InputError: a run has learnt from other weights.
    """
    for folder in (stage for run in runs for stage in (run, *sorted(run.glob("before-*")))):
        meta = checkpoints.read_meta(folder / "checkpoints")
        if meta is None:
            continue
        recorded = meta.get("about", {}).get("training", {}).get("teachers")
        if recorded is None or not all(origin.get("digest") for origin in recorded):
            console.note(
                f"the checkpoints in {folder} do not record the teacher's weights; they are"
                " recorded from now on"
            )
            continue
        for problem in _differences(recorded, teacher):
            raise errors.InputError(
                f"the run in {folder} has learnt from another teacher: {problem}"
            )


def _differences(recorded: list[dict[str, str]], teacher: FrozenNetwork) -> Iterator[str]:
    """Yields a description of each teacher whose weights differ from the recorded ones."""
    members = zip(recorded, teacher.origins, teacher.earlier_digests, strict=False)
    for before, now, earlier in members:
        if before["digest"] in (now["digest"], earlier):
            continue
        old, new = before.get("checkpoint", ""), now["checkpoint"]
        if old == new and new.startswith("'"):
            remedy = f"{new} has other weights than before; pass the earlier weights,"
        elif old == new:
            remedy = (
                f"the weights in {new} have changed since; restore them, select their checkpoint"
                " with RUN@STEP,"
            )
        else:
            remedy = f"{new} has other weights than {old}; pass --config.teacher.checkpoint={old},"
        yield f"{remedy} or pass another --workdir"
