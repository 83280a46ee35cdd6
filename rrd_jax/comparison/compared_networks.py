"""Loads the student and the teachers of a run for export and measurement."""

import pathlib
from typing import Any, NamedTuple

from rrd_jax import config as configs
from rrd_jax import errors, exports, library
from rrd_jax.data.source import Source
from rrd_jax.exports import Exportable
from rrd_jax.library import run_teachers, weights_loader
from rrd_jax.teacher import class_matching
from rrd_jax.weights import files


class ComparedNetwork(NamedTuple):
    """A network of a report.

    Attributes:
      role: a label such as "student" or "teacher 2".
      network: the network with its weights.
      weight: weight of the logits in the ensemble of the teachers.
      shares_classes: False if the classes are known to differ from the student's.
    """

    role: str
    network: Exportable
    weight: float = 1.0
    shares_classes: bool = True


def load(path: pathlib.Path, **options: Any) -> Exportable:
    """Loads the network of a run, a converted folder, a PyTorch file or an exported file.

    Args:
      path: see `library.load`.
      **options: arguments of `library.load`.

    Raises:
      InputError: the network is missing or damaged, its preprocessing is unknown, or the file does
        not contain weights.
    """
    loaded = library.load(path, **options)
    if not isinstance(loaded, library.Loaded):
        raise errors.InputError(
            f"{path} was exported for {loaded.runtime}, so its weights cannot be read; pass the run"
            " that it was exported from"
        )
    return _exportable(loaded)


def load_teacher(path: pathlib.Path) -> Exportable:
    """Loads the only teacher of a run.

    Raises:
      InputError: the run has no teacher or several teachers, or the weights were deleted.
    """
    teachers = run_teachers.teachers_of(path)
    if not teachers:
        raise errors.InputError(f"{path} has no teacher; omit --teacher to use the run's network")
    if len(teachers) > 1:
        flags = " or ".join(f"--workdir={teacher.path}" for teacher in teachers)
        raise errors.InputError(f"{path} has {len(teachers)} teachers; select one with {flags}")
    return _exportable(run_teachers.load_single(path, teachers[0]))


def load_teachers(
    path: pathlib.Path, student: Exportable
) -> tuple[list[ComparedNetwork], list[str]]:
    """Loads the teachers of a run; returns them with a message for each that cannot be loaded."""
    teachers = run_teachers.teachers_of(path)
    total = sum(teacher.weight for teacher in teachers)
    members, problems = [], []
    for i, teacher in enumerate(teachers, 1):
        role = "teacher" if len(teachers) == 1 else f"teacher {i}"
        try:
            network = _exportable(run_teachers.load_single(path, teacher))
            match = class_matching.match(
                network.about.class_names,
                network.about.num_classes,
                student.about.class_names,
                student.about.num_classes,
            )
            shares_classes = match.compares and network.about.num_classes > 0
            weight = teacher.weight / total
            members.append(ComparedNetwork(role, network, weight, shares_classes))
        except errors.InputError as error:
            problems.append(f"{role}: {error}")
    return members, problems


def _exportable(loaded: library.Loaded) -> Exportable:
    return exports.make_exportable(loaded.network, loaded.variables, loaded.about, loaded.terms)


def source_of(path: pathlib.Path) -> Source | None:
    """Returns the data source of a run; None for a network without a run."""
    fields = weights_loader.read_run_fields(files.split(path)[0])
    return configs.source_of(fields) if fields and fields["data"]["name"] else None
