"""Optax transformations and schedules, from names and numbers."""

from rrd_jax.optim.layers import block_scales, check_decay, scaled
from rrd_jax.optim.optimizers import all_but, call, create, sgd
from rrd_jax.optim.schedules import boundaries, create_schedule, step_schedule, warmup_length

__all__ = [
    "all_but",
    "block_scales",
    "boundaries",
    "call",
    "check_decay",
    "create",
    "create_schedule",
    "scaled",
    "sgd",
    "step_schedule",
    "warmup_length",
]
