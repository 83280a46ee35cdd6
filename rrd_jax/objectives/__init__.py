"""Distillation objectives: pure functions, chosen by name or by import path.

A new objective of ours is its file, which ends in its RECORD, and its line in the list below. A
user's objective needs neither: its name is its import path, such as my_losses:angular.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from rrd_jax import errors, imports
from rrd_jax.objectives import custom
from rrd_jax.objectives.base import Objective, ObjectiveState, Record, Stage, stateless
from rrd_jax.objectives.border import check, reads, reads_logits
from rrd_jax.objectives.multi_teacher import averaged

# The files of this folder that hold a RECORD, in the order of the catalogue.
_FILES = (
    # On class scores.
    "ce",
    "kd",
    "wsld",
    "dkd",
    "dist",
    "r2kd",
    "cmkd",
    # On embeddings, one by one.
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
    "rrd",
    "seed",
    "compress",
    # On feature maps.
    "fitnet",
    "at",
    "nst",
    "vid",
    "kdsvd",
    "ssim",
    "semckd",
    "reviewkd",
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
    """What is known of an objective.

    Args:
      name: of one of ours; or of a user's, whose import path is `factory`; or an import path.
      factory: MODULE:ATTRIBUTE of a user's, as `brought.record` has it; "" for one of ours.

    Raises:
      InputError: the name is unknown, a user's objective is called like one of ours, or its import
        path leads to none.
    """
    path = factory or (name if imports.is_path(name) else "")
    if not path:
        return errors.lookup("objective", name, RECORDS)
    known = custom.record(path, name if factory else "")
    if known.name in RECORDS:
        raise errors.InputError(
            f"objective '{path}' has the name of one of ours, '{known.name}'; rename it"
        )
    return known


def create(name: str, /, factory: str = "", **options: Any) -> Objective:
    """The objective of that name, or of an import path; see `record`.

    Raises:
      InputError: an unknown name or option, or an option out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from rrd_jax.networks import Outputs
      >>> kd = create("kd", temperature=4.0)
      >>> student, teacher = Outputs(jnp.ones((8, 10)), ()), Outputs(jnp.ones((8, 10)), ())
      >>> losses, _ = kd.loss(ObjectiveState(), student, teacher, batch=None)
      >>> losses.shape
      (8,)
    """
    known = record(name, factory)
    if known.name in RECORDS:
        parameters = inspect.signature(known.factory).parameters
        for option in options:
            trainers = dict.fromkeys(("weight", "warmup"))  # for who misspells them
            errors.lookup(f"option of objective '{name}'", option, {**trainers, **parameters})
    return known.factory(**options)


def without_labels() -> list[str]:
    """The names of ours that a student can learn by without labels."""
    return [name for name, known in RECORDS.items() if not known.needs_labels]


def takes(name: str, option: str, factory: str = "") -> bool:
    """Whether the objective of that name, or of an import path, has that option.

    Raises:
      InputError: an unknown name.
    """
    return option in inspect.signature(record(name, factory).factory).parameters


def classifier(terms: dict[str, Objective]) -> str:
    """Name of the objective that classifies in the student's place; "" where none does.

    Raises:
      InputError: several do.
    """
    names = [name for name, objective in terms.items() if objective.predict]
    if len(names) > 1:
        raise errors.InputError(
            f"objectives {' and '.join(names)} each classify in the student's place; choose one"
        )
    return "".join(names)


def check_teacher(terms: dict[str, Objective], *, present: bool) -> None:
    """Raises an InputError for the first objective that lacks the teacher it needs."""
    for name, objective in terms.items():
        if objective.needs_teacher and not present:
            raise errors.InputError(
                f"objective '{name}' compares with a teacher; set config.teacher.model, or pass"
                " teacher= in Python"
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
    "reads",
    "reads_logits",
    "record",
    "stateless",
    "takes",
    "without_labels",
]
