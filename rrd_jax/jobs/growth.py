"""Runs that are resumed with more epochs than they began with."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from rrd_jax.jobs.progress import finished
from rrd_jax.run_folder import workdir
from rrd_jax.terminal import console
from rrd_jax.training.recipe import Part, TeacherChoice


def describe(folder: pathlib.Path, part: Part, before: Mapping[str, Any]) -> None:
    """Prints whether a run with more epochs equals one that had them from its start."""
    epochs, training = _epochs(before), part.training
    if not 0 < epochs < training.epochs:
        return
    steps = 10  # Steps an epoch; the shape of a schedule does not depend on them.
    shorter, longer = (training.optimizer.schedule(n, steps) for n in (epochs, training.epochs))
    past = np.unique(np.linspace(0, epochs * steps - 1, 200).astype(int)).tolist()
    if np.allclose([shorter(i) for i in past], [longer(i) for i in past], equal_nan=True):
        console.note(f"{folder} grows from {epochs} epochs to {training.epochs}, exactly")
        return
    console.warn(
        f"{folder} grows from {epochs} epochs to {training.epochs}, but its learning rates so far"
        f" are those of {epochs}: another run than {training.epochs} epochs from the start, with"
        f" the rate at {float(shorter(past[-1])):.3g}, now {float(longer(epochs * steps)):.3g}."
        " Another --workdir trains from the start"
    )


def as_trained(teacher: TeacherChoice, path: pathlib.Path) -> TeacherChoice:
    """Returns a teacher with the epochs that it was trained for, although its student has more now.

    Args:
      teacher: the teacher of the present config.
      path: the folder in which it was trained.
    """
    if teacher.checkpoint or not teacher.follows:
        return teacher
    epochs = _epochs(workdir.read_fields(path) or {})
    if not 0 < epochs < teacher.part.training.epochs:
        return teacher
    if not finished(path, epochs):
        return teacher
    console.note(f"the teacher in {path} stays as it was trained, with {epochs} epochs")
    fields = teacher.part.fields
    part = dataclasses.replace(
        teacher.part,
        training=dataclasses.replace(teacher.part.training, epochs=epochs),
        fields=fields | {"train": fields["train"] | {"epochs": epochs}},
    )
    return dataclasses.replace(teacher, part=part)


def _epochs(fields: Mapping[str, Any]) -> int:
    """Returns the epochs in the fields of a folder; 0 if they are missing."""
    epochs = workdir.flatten(fields).get("train.epochs")
    return epochs if isinstance(epochs, int) else 0
