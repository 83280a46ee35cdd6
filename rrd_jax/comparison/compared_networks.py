"""The student and the teachers of a run, ready to be exported and measured."""

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
      role: such as "student" or "teacher 2".
      network: with its weights.
      weight: of its logits in the sum of the teachers.
      shares_classes: whether it has the classes of the student, as far as is known.
    """

    role: str
    network: Exportable
    weight: float = 1.0
    shares_classes: bool = True


def load(path: pathlib.Path, **options: Any) -> Exportable:
    """Loads the network of a run, a converted folder, a PyTorch file or an exported file.

    Args:
      path: as for `library.load`.
      **options: of `library.load`.

    Raises:
      InputError: it is missing or damaged, its preprocessing is unknown, or the file holds no
        weights.
    """
    loaded = library.load(path, **options)
    if not isinstance(loaded, library.Loaded):
        raise errors.InputError(
            f"{path} was exported for {loaded.runtime}, whose files hold no readable weights:"
            " name the run that it is from"
        )
    return _exportable(loaded)


def load_teacher(path: pathlib.Path) -> Exportable:
    """Loads the only teacher of a run.

    Raises:
      InputError: the run has no teacher or several, or the weights are gone.
    """
    listed = run_teachers.teachers_of(path)
    if len(listed) != 1:
        named = ", ".join(f"--workdir={teacher.path}" for teacher in listed)
        raise errors.InputError(
            f"{path} has {len(listed) or 'no'} teachers" + (f"; name one: {named}" if named else "")
        )
    return _exportable(run_teachers.load_single(path, listed[0]))


def load_teachers(
    path: pathlib.Path, student: Exportable
) -> tuple[list[ComparedNetwork], list[str]]:
    """Loads the teachers of a run; returns them, and a line for each that is missing."""
    listed = run_teachers.teachers_of(path)
    total = sum(teacher.weight for teacher in listed)
    members, left_out = [], []
    for i, teacher in enumerate(listed, 1):
        role = "teacher" if len(listed) == 1 else f"teacher {i}"
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
            left_out.append(f"{role}: {error}")
    return members, left_out


def _exportable(loaded: library.Loaded) -> Exportable:
    return exports.make_exportable(loaded.network, loaded.variables, loaded.about, loaded.terms)


def source_of(path: pathlib.Path) -> Source | None:
    """Returns the data source of a run, None if it has none."""
    fields = weights_loader.read_run_fields(files.split(path)[0])
    return configs.source_of(fields) if fields and fields["data"]["name"] else None
