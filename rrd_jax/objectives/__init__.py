"""Distillation objectives: pure functions, chosen by name."""

import inspect
from collections.abc import Callable
from typing import Any

from rrd_jax import errors
from rrd_jax.objectives import (
    contrast,
    correlation,
    crossed,
    features,
    graphs,
    heads,
    kdsvd,
    logits,
    relations,
    rrd,
    ssim,
    staged,
)
from rrd_jax.objectives.base import Objective, ObjectiveState, Stage
from rrd_jax.objectives.several import averaged

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "ce": logits.ce,
    "kd": logits.kd,
    "wsld": logits.wsld,
    "dkd": logits.dkd,
    "dist": correlation.dist,
    "r2kd": correlation.r2kd,
    "cmkd": correlation.cmkd,
    "sp": relations.sp,
    "rkd": relations.rkd,
    "pkt": relations.pkt,
    "cc": relations.cc,
    "ckd": relations.ckd,
    "itrd": graphs.itrd,
    "ega": graphs.ega,
    "dcd": contrast.dcd,
    "crd": contrast.crd,
    "rrd": rrd.rrd,
    "fitnet": features.fitnet,
    "at": features.at,
    "nst": features.nst,
    "vid": features.vid,
    "kdsvd": kdsvd.kdsvd,
    "ssim": ssim.ssim,
    "semckd": crossed.semckd,
    "reviewkd": crossed.reviewkd,
    "srrl": heads.srrl,
    "simkd": heads.simkd,
    "ab": staged.ab,
    "ft": staged.ft,
    "fsp": staged.fsp,
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
    """Which of the objectives classifies in the student's place, "" for none.

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
    "Objective",
    "ObjectiveState",
    "Stage",
    "averaged",
    "check_teacher",
    "classifier",
    "contrast",
    "correlation",
    "create",
    "crossed",
    "features",
    "graphs",
    "heads",
    "kdsvd",
    "logits",
    "relations",
    "rrd",
    "ssim",
    "staged",
    "takes",
]
