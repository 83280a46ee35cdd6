"""Builds Optax transformations and schedules from names and numbers."""

from rrd_jax.optim.averages import AVERAGE_FIELDS, evaluation_params, schedule_free
from rrd_jax.optim.layer_rates import block_scales, check_decay, scaled
from rrd_jax.optim.optimizers import all_but, checked, create, sgd
from rrd_jax.optim.schedules import boundaries, create_schedule, step_schedule, warmup_length

__all__ = [
    "AVERAGE_FIELDS",
    "all_but",
    "block_scales",
    "boundaries",
    "check_decay",
    "checked",
    "create",
    "create_schedule",
    "evaluation_params",
    "scaled",
    "schedule_free",
    "sgd",
    "step_schedule",
    "warmup_length",
]
