"""What is measured of a finished run beyond its metrics.jsonl, kept in <run>/measures/<name>.npz.

    from experiments import measures

    values = measures.measure(pathlib.Path("runs/digits"), "alignment")  # computed, and kept
    values = measures.read(pathlib.Path("runs/digits"), "alignment")  # as kept; without JAX

Values by name are arrays and numbers. Those of a network have its role before their name, as
`student_top1`; the docstring of `of` in the module of a measure's name says what each is.
"""

import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from experiments.measures import alignment, calibration, kept, predictions, tsne
from experiments.measures.subject import Answers, Subject, of_run
from rrd_jax import errors
from rrd_jax.terminal import console

__all__ = [
    "MEASURES",
    "NEED_TEACHER",
    "Answers",
    "Subject",
    "measure",
    "missing",
    "of_run",
    "read",
]

MEASURES: Mapping[str, Callable[[Subject], Mapping[str, np.ndarray | float]]] = {
    "predictions": predictions.of,
    "calibration": calibration.of,
    "alignment": alignment.of,
    "tsne": tsne.of,
}
NEED_TEACHER = frozenset({"alignment"})  # those that a run without a teacher cannot have


def measure(
    folder: pathlib.Path, name: str, subject: Subject | None = None, again: bool = False
) -> Mapping[str, Any]:
    """Measures a run, or reads what was measured of the same checkpoint before.

    Args:
      folder: a workdir.
      name: one of `MEASURES`.
      subject: of the run, if it is there already; one for all measures saves time.
      again: whether it is measured in any case.

    Raises:
      InputError: an unknown name, no run, or one that this cannot be measured of.
      DiskError: the file cannot be written.
    """
    function, folder = errors.lookup("measure", name, MEASURES), pathlib.Path(folder)
    if not again and (values := _intact(folder, name, subject)) is not None:
        return values
    if not folder.is_dir():
        raise errors.InputError(
            f"{folder} is no folder; what is measured is kept in that of a run, and is of its"
            " newest checkpoint"
        )
    subject = subject or of_run(folder)
    values = kept.plain(function(subject))
    origin = subject.origin or {"student": kept.digest_on_disk(folder) or ""}
    kept.write(kept.path(folder, name), values, origin)
    return values


def read(
    folder: pathlib.Path, name: str, subject: Subject | None = None
) -> Mapping[str, Any] | None:
    """What was measured of a run's newest checkpoint; None where it was not, or not of this one.

    A run whose checkpoints are gone is read all the same.

    Args:
      folder: a workdir.
      name: one of `MEASURES`.
      subject: what it must be of, if this is known: also the same teacher and images.

    Raises:
      InputError: an unknown name, or a damaged file.
    """
    errors.lookup("measure", name, MEASURES)
    found = kept.read(kept.path(folder, name))
    if found is None:
        return None
    values, origin = found
    if subject is not None and subject.origin:
        return values if origin == subject.origin else None
    newest = kept.digest_on_disk(pathlib.Path(folder))
    return values if newest in (None, origin.get("student")) else None


def missing(folder: pathlib.Path, names: Collection[str]) -> list[str]:
    """Those of `MEASURES` that are still to be measured of a run's newest checkpoint.

    A damaged file is a warning, and its measure is among them. No JAX is imported.

    Raises:
      InputError: an unknown name.
    """
    for name in names:
        errors.lookup("measure", name, MEASURES)
    return [name for name in names if _intact(pathlib.Path(folder), name) is None]


def _intact(
    folder: pathlib.Path, name: str, subject: Subject | None = None
) -> Mapping[str, Any] | None:
    """As `read`, and None, with a warning, for a damaged file."""
    try:
        return read(folder, name, subject)
    except errors.InputError as error:
        console.warn(str(error))
        return None
