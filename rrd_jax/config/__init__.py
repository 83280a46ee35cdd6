"""Configs: all fields with defaults and meanings, methods, and the conversion to a Job.

A config file in `configs/` takes `defaults`, `imagenet`, `deit` or `without_labels`, changes some
fields, and calls `finish` or `finish_without_labels`.
"""

from rrd_jax.config.commands import explain
from rrd_jax.config.config_string import finish, image_side, teachers
from rrd_jax.config.describe import describe
from rrd_jax.config.fields import defaults, deit, imagenet
from rrd_jax.config.label_free import (
    finish_without_labels,
    take_words,
    use_drawings,
    without_labels,
)
from rrd_jax.config.methods import METHODS, leave_out_labels, limit, method, smooth_labels
from rrd_jax.config.parse import (
    implied,
    parse,
    source_of,
    teaching_of,
    training_of,
    unused_fields,
)

__all__ = [
    "METHODS",
    "defaults",
    "deit",
    "describe",
    "explain",
    "finish",
    "finish_without_labels",
    "image_side",
    "imagenet",
    "implied",
    "leave_out_labels",
    "limit",
    "method",
    "parse",
    "smooth_labels",
    "source_of",
    "take_words",
    "teachers",
    "teaching_of",
    "training_of",
    "unused_fields",
    "use_drawings",
    "without_labels",
]
