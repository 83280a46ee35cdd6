"""Distillation objectives: pure functions, chosen by name.

A new objective is its file, which ends in its RECORD, and its line in the list below.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState, Record, Stage
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


def create(name: str, **options: Any) -> Objective:
    """The objective of that name.

    Raises:
      InputError: an unknown name or option, or an option out of range.
    """
    factory = errors.lookup("objective", name, OBJECTIVES)
    known = inspect.signature(factory).parameters
    for option in options:
        trainers = dict.fromkeys(("weight", "warmup"))  # for who misspells them
        errors.lookup(f"option of objective '{name}'", option, {**trainers, **known})
    return factory(**options)


def takes(name: str, option: str) -> bool:
    """Whether the objective of that name has that option.

    Raises:
      InputError: an unknown name.
    """
    factory = errors.lookup("objective", name, OBJECTIVES)
    return option in inspect.signature(factory).parameters


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
                f"objective '{name}' compares with a teacher; set config.teacher.model"
            )


__all__ = [
    "OBJECTIVES",
    "RECORDS",
    "Objective",
    "ObjectiveState",
    "Record",
    "Stage",
    "averaged",
    "check_teacher",
    "classifier",
    "create",
    "takes",
]
