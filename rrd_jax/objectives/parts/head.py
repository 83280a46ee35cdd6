"""The teacher's classifier, of objectives that put it behind the student's features."""

from typing import Any

import jax

from rrd_jax.objectives.parts.missing import missing

Head = dict[str, jax.Array]  # {"kernel": [D, C], "bias": [C]}


def check_head(name: str, teacher: Any) -> None:
    """Raises an InputError where the teacher's Outputs report no classifier."""
    if not teacher.head:
        raise missing(name, "teacher", "head")
