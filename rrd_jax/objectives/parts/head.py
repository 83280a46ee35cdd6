"""The teacher's classifier, of objectives that put it behind the student's features."""

from typing import Any

import jax

from rrd_jax import errors

Head = dict[str, jax.Array]  # {"kernel": [D, C], "bias": [C]}


def check_head(name: str, teacher: Any) -> None:
    """Raises an InputError where the teacher's Outputs report no classifier."""
    if not teacher.head:
        raise errors.InputError(f"{name} needs a teacher whose network reports its classifier")
