"""Relational Representation Distillation (arXiv 2407.12073) for JAX.

    import rrd_jax

    losses = rrd_jax.relational_loss(student, teacher, memory, temperature_student=0.04, ...)
    result = rrd_jax.distill(teacher=..., student=..., train=(images, labels), test=...)
    network = rrd_jax.load("runs/digits")

Submodules are imported on first use, so that a program that uses only the loss does not import the
data pipeline. `rrd_jax.__version__` is the version of the installed package.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rrd_jax import (
        checkpoints,
        config,
        convert,
        data,
        errors,
        networks,
        objectives,
        optim,
        teacher,
    )
    from rrd_jax.library import distill, evaluate, load, load_teacher, train_teacher
    from rrd_jax.objectives.parts import memory
    from rrd_jax.objectives.rrd import relational_loss
    from rrd_jax.training import metrics

    __version__: str

__all__ = [
    "__version__",
    "checkpoints",
    "config",
    "convert",
    "data",
    "distill",
    "errors",
    "evaluate",
    "load",
    "load_teacher",
    "memory",
    "metrics",
    "networks",
    "objectives",
    "optim",
    "relational_loss",
    "teacher",
    "train_teacher",
]

_LIBRARY = ("distill", "evaluate", "load", "load_teacher", "train_teacher")
_FUNCTIONS = {"relational_loss": "rrd_jax.objectives.rrd"} | dict.fromkeys(
    _LIBRARY, "rrd_jax.library"
)
_MODULES = {"memory": "rrd_jax.objectives.parts.memory", "metrics": "rrd_jax.training.metrics"}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'rrd_jax' has no attribute '{name}'")
    if name == "__version__":
        metadata = importlib.import_module("importlib.metadata")
        try:
            value = metadata.version("rrd_jax")
        except metadata.PackageNotFoundError:
            # The package is importable but not installed.
            value = "unknown"
    elif name in _FUNCTIONS:
        value = getattr(importlib.import_module(_FUNCTIONS[name]), name)
    else:
        value = importlib.import_module(_MODULES.get(name, f"rrd_jax.{name}"))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
