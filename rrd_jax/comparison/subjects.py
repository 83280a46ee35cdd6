"""The networks of a run, ready to be exported and measured."""

import pathlib
from typing import Any, NamedTuple

from rrd_jax import config as configs
from rrd_jax import errors, exports, library
from rrd_jax.data.source import Source
from rrd_jax.exports import Exportable
from rrd_jax.library import loading, teachers
from rrd_jax.teacher import classes
from rrd_jax.weights import files


class Member(NamedTuple):
    """A network of a report.

    Attributes:
      role: such as "student" or "teacher 2".
      network: with its weights.
      weight: of its logits among those of the teachers.
      compares: whether its classes are the student's, as far as is known; not where it has none.
    """

    role: str
    network: Exportable
    weight: float = 1.0
    compares: bool = True


def load(path: pathlib.Path, **given: Any) -> Exportable:
    """A network from a run, a converted folder, a PyTorch file or an exported file of weights.

    Args:
      path: as `library.load` has it.
      **given: what a user says of it; arguments of `library.load`.

    Raises:
      InputError: it is not there or damaged, or it is not known what images it takes.
    """
    loaded = library.load(path, **given)
    if not isinstance(loaded, library.Loaded):
        raise errors.InputError(
            f"{path} was exported for {loaded.runtime}, which gives no weights back: name the run"
            " that it is from"
        )
    return _exportable(loaded)


def load_teacher(path: pathlib.Path) -> Exportable:
    """The one teacher of a run.

    Raises:
      InputError: it has none or several, or the teacher is gone.
    """
    listed = teachers.teachers_of(path)
    if len(listed) != 1:
        named = ", ".join(f"--workdir={teacher.path}" for teacher in listed)
        raise errors.InputError(
            f"{path} has {len(listed) or 'no'} teachers" + (f"; name one: {named}" if named else "")
        )
    return _exportable(teachers.load_single(path, listed[0]))


def load_teachers(path: pathlib.Path, student: Exportable) -> tuple[list[Member], list[str]]:
    """The teachers of a run beside its student, and why some are missing, a line each."""
    ours = student.about
    listed = teachers.teachers_of(path)
    total = sum(teacher.weight for teacher in listed)
    members, left_out = [], []
    for i, teacher in enumerate(listed, 1):
        role = "teacher" if len(listed) == 1 else f"teacher {i}"
        try:
            network = _exportable(teachers.load_single(path, teacher))
            theirs = network.about
            found = classes.match(
                theirs.class_names, theirs.num_classes, ours.class_names, ours.num_classes
            )
            compares = found.compares and theirs.num_classes > 0
            members.append(Member(role, network, teacher.weight / total, compares))
        except errors.InputError as error:
            left_out.append(f"{role}: {error}")
    return members, left_out


def _exportable(loaded: library.Loaded) -> Exportable:
    return exports.exportable(loaded.network, loaded.variables, loaded.about, loaded.terms)


def source_of(path: pathlib.Path) -> Source | None:
    """The images of a run; None where there are none."""
    fields = loading.fields_of(files.split(path)[0])
    return configs.source_of(fields) if fields and fields["data"]["name"] else None
