"""Runs that get more epochs than they began with."""

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
    """Says whether a run with more epochs than before is what it were with these from its start."""
    epochs, training = _epochs(before), part.training
    if not 0 < epochs < training.epochs:
        return
    steps = 10  # of an epoch: schedules have a shape, whatever it is drawn on
    shorter, longer = (training.optimizer.schedule(n, steps) for n in (epochs, training.epochs))
    made = np.unique(np.linspace(0, epochs * steps - 1, 200).astype(int)).tolist()
    if np.allclose([shorter(i) for i in made], [longer(i) for i in made], equal_nan=True):
        console.note(f"{folder} grows from {epochs} epochs to {training.epochs}, exactly")
        return
    console.warn(
        f"{folder} grows from {epochs} epochs to {training.epochs}, but its learning rates so far"
        f" are those of {epochs}: another run than {training.epochs} epochs from the start, with"
        f" the rate at {float(shorter(made[-1])):.3g}, now {float(longer(epochs * steps)):.3g}."
        " Another --workdir trains from the start"
    )


def as_trained(teacher: TeacherChoice, path: pathlib.Path) -> TeacherChoice:
    """A teacher whose epochs follow those of a run that grew: it stays as it was trained.

    Args:
      teacher: as the config has it now.
      path: where it is trained.
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
    """Of the fields that a folder keeps; 0 where they do not say."""
    epochs = workdir.flatten(fields).get("train.epochs")
    return epochs if isinstance(epochs, int) else 0
