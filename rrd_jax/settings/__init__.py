"""Declarations of config fields.

A frozen dataclass declares a config field where its value is used, and documents the field in its
docstring:

    epochs: int = field("train.epochs", 240, Integer(1))

`rrd_jax.config` collects the declarations, and generates from them the defaults, the checks, the
notes on unused fields, the list of fields that a resumed run may change, --print_config and the
reference pages. `build` fills a dataclass with the values of a config.
"""

from rrd_jax.settings.declarations import Field, Rule, build, check, documented, field, fields_of
from rrd_jax.settings.rules import first_reason, unless
from rrd_jax.settings.values import Values

__all__ = [
    "Field",
    "Rule",
    "Values",
    "build",
    "check",
    "documented",
    "field",
    "fields_of",
    "first_reason",
    "unless",
]
