"""The choices of a run: frozen dataclasses of names, numbers and objects made in Python."""

from rrd_jax.training.choices.alignment import AlignmentChoice
from rrd_jax.training.choices.images import AugmentChoice, MixChoice
from rrd_jax.training.choices.network import DTYPES, NetworkChoice, StartChoice
from rrd_jax.training.choices.objective import ObjectiveChoice
from rrd_jax.training.choices.optimizer import OptimizerChoice
from rrd_jax.training.choices.report import ReportChoice
from rrd_jax.training.choices.robustness import RobustnessChoice
from rrd_jax.training.choices.teacher import CacheChoice, TeacherFields, TeachingChoice

__all__ = [
    "DTYPES",
    "AlignmentChoice",
    "AugmentChoice",
    "CacheChoice",
    "MixChoice",
    "NetworkChoice",
    "ObjectiveChoice",
    "OptimizerChoice",
    "ReportChoice",
    "RobustnessChoice",
    "StartChoice",
    "TeacherFields",
    "TeachingChoice",
]
