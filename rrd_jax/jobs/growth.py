"""Runs that are resumed with more epochs than at their first start."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from rrd_jax.jobs.progress import finished
from rrd_jax.run_folder import workdir
from rrd_jax.terminal import console
from rrd_jax.training.recipe import Part, TeacherChoice


def describe(folder: pathlib.Path, part: Part, previous: Mapping[str, Any]) -> None:
    """Logs whether an extended run is identical to a run with all epochs from the start.

    Args:
      folder: the run folder.
      part: the run.
      previous: the config fields of the previous start.
    """
    epochs, training = _epochs(previous), part.training
    if not 0 < epochs < training.epochs:
        return
    # The number of steps per epoch is arbitrary; the shape of a schedule does not depend on it.
    steps = 10
    shorter, longer = (training.optimizer.schedule(n, steps) for n in (epochs, training.epochs))
    past = np.unique(np.linspace(0, epochs * steps - 1, 200).astype(int)).tolist()
    if np.allclose([shorter(i) for i in past], [longer(i) for i in past], equal_nan=True):
        console.note(
            f"extending {folder} from {epochs} to {training.epochs} epochs, identical to a run with"
            f" {training.epochs} epochs from the start"
        )
        return
    console.warn(
        f"extending {folder} from {epochs} to {training.epochs} epochs, different from a run with"
        f" {training.epochs} epochs from the start: the learning rates so far followed the schedule"
        f" for {epochs}, and the rate changes from {float(shorter(past[-1])):.3g} to"
        f" {float(longer(epochs * steps)):.3g}; pass another --workdir to train from the start"
    )


def as_trained(teacher: TeacherChoice, path: pathlib.Path) -> TeacherChoice:
    """Returns a teacher with its trained number of epochs, if only the student is extended.

    Args:
      teacher: the teacher of the current config.
      path: the teacher's run folder.
    """
    if teacher.checkpoint or not teacher.follows:
        return teacher
    epochs = _epochs(workdir.read_fields(path) or {})
    if not 0 < epochs < teacher.part.training.epochs:
        return teacher
    if not finished(path, epochs):
        return teacher
    console.note(f"the teacher in {path} is finished and keeps train.epochs={epochs}")
    part = teacher.part.with_fields({"train.epochs": epochs})
    part = dataclasses.replace(part, training=dataclasses.replace(part.training, epochs=epochs))
    return dataclasses.replace(teacher, part=part)


def _epochs(fields: Mapping[str, Any]) -> int:
    """Returns train.epochs of config fields; 0 if the field is missing."""
    epochs = workdir.flatten(fields).get("train.epochs")
    return epochs if isinstance(epochs, int) else 0
