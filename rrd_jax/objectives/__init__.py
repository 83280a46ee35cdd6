"""Distillation objectives: pure functions, chosen by name or by import path.

A built-in objective is a file that ends in its RECORD, and a line in the list below. A custom
objective needs neither: its name is its import path, such as my_losses:angular.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from rrd_jax import errors, imports
from rrd_jax.objectives import custom
from rrd_jax.objectives.base import (
    Objective,
    ObjectiveState,
    Record,
    Stage,
    mean_losses,
    stateless,
)
from rrd_jax.objectives.gradients import trained
from rrd_jax.objectives.multi_teacher import averaged
from rrd_jax.objectives.shape_checks import check, reads, reads_logits

# The modules of this package that define a RECORD, in the order of the catalog.
_FILES = (
    # On class scores.
    "ce",
    "kd",
    "wsld",
    "dkd",
    "dist",
    "r2kd",
    "cmkd",
    "rld",
    "wttm",
    "ctkd",
    "sdd",
    "ofa",
    "wkd",
    # On two views of each image.
    "mlkd",
    "crld",
    "vrm",
    "rdd",
    # On the embedding of each image.
    "embed",
    # On relations within the batch.
    "sp",
    "rkd",
    "pkt",
    "cc",
    "ckd",
    "itrd",
    "ega",
    "dcd",
    # With a memory.
    "crd",
    "disco",
    "rrd",
    "seed",
    "compress",
    # On feature maps.
    "fitnet",
    "at",
    "nst",
    "pkth",
    "vid",
    "kdsvd",
    "ssim",
    "semckd",
    "reviewkd",
    "scalekd",
    # With the teacher's classifier.
    "srrl",
    "simkd",
    # With a stage before distillation.
    "ab",
    "ft",
    "fsp",
)
RECORDS: dict[str, Record] = {
    record.name: record
    for record in (importlib.import_module(f"{__name__}.{file}").RECORD for file in _FILES)
}
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    name: record.factory for name, record in RECORDS.items()
}


def record(name: str, factory: str = "") -> Record:
    """Returns the catalog entry of an objective.

    Args:
      name: name of a built-in objective, import path of a custom objective, or any name for the
        custom objective at `factory`.
      factory: import path MODULE:ATTRIBUTE of a custom objective, see `custom.record`; "" for a
        built-in objective.

    Raises:
      InputError: the name is unknown, a custom objective has the name of a built-in objective, or
        the import path does not lead to an objective.
    """
    path = factory or (name if imports.is_path(name) else "")
    if not path:
        return errors.lookup("objective", name, RECORDS)
    entry = custom.record(path, name if factory else "")
    if entry.name in RECORDS:
        raise errors.InputError(
            f"objective '{path}' has the name of a built-in objective, '{entry.name}'; rename it"
        )
    return entry


def create(name: str, /, factory: str = "", **options: Any) -> Objective:
    """Creates an objective by name or import path; see `record`.

    Raises:
      InputError: a name or an option is unknown, or an option is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from rrd_jax.networks import Outputs
      >>> kd = create("kd", temperature=4.0)
      >>> student, teacher = Outputs(jnp.ones((8, 10)), ()), Outputs(jnp.ones((8, 10)), ())
      >>> losses, _ = kd.loss(ObjectiveState(), student, teacher, batch=None)
      >>> losses.shape
      (8,)
    """
    entry = record(name, factory)
    if entry.name in RECORDS:
        parameters = inspect.signature(entry.factory).parameters
        for option in options:
            # Every objective has these fields, so they are suggested for a misspelled option.
            trainers = dict.fromkeys(("weight", "warmup"))
            errors.lookup(f"option of objective '{name}'", option, {**trainers, **parameters})
    return entry.factory(**options)


def without_labels() -> list[str]:
    """Returns the names of the built-in objectives that need no labels."""
    return [name for name, entry in RECORDS.items() if not entry.needs_labels]


def takes(name: str, option: str, factory: str = "") -> bool:
    """Returns True if an objective, by name or import path, has an option.

    Raises:
      InputError: the name is unknown.
    """
    return option in inspect.signature(record(name, factory).factory).parameters


def classifier(terms: dict[str, Objective]) -> str:
    """Returns the name of the objective that replaces the student's classifier; "" if none does.

    Raises:
      InputError: more than one objective replaces it.
    """
    names = [name for name, objective in terms.items() if objective.predict]
    if len(names) > 1:
        raise errors.InputError(
            f"objectives {' and '.join(names)} each replace the student's classifier; choose one"
        )
    return "".join(names)


def check_teacher(terms: dict[str, Objective], *, present: bool) -> None:
    """Raises an InputError for the first objective that needs a teacher, if none is present."""
    for name, objective in terms.items():
        if objective.needs_teacher and not present:
            raise errors.InputError(
                f"objective '{name}' needs a teacher; set config.teacher.model, or pass teacher= in"
                " Python"
            )


__all__ = [
    "OBJECTIVES",
    "RECORDS",
    "Objective",
    "ObjectiveState",
    "Record",
    "Stage",
    "averaged",
    "check",
    "check_teacher",
    "classifier",
    "create",
    "mean_losses",
    "reads",
    "reads_logits",
    "record",
    "stateless",
    "takes",
    "trained",
    "without_labels",
]
