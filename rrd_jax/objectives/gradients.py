"""Values that the loss of an objective trains, by tracing its backward pass."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.networks.jaxprs import reached
from rrd_jax.objectives.base import Objective, ObjectiveState
from rrd_jax.objectives.batch import Batch
from rrd_jax.objectives.shape_checks import sized, with_second


class Trained(NamedTuple):
    """The values for which the loss of an objective has a gradient.

    Attributes:
      student: the student's Outputs, with True for each array that has a gradient.
      params: True if one of the objective's own parameters has a gradient.
    """

    student: Any
    params: bool


def trained(
    name: str, objective: Objective, state: ObjectiveState, student: Any, teacher: Any, batch: Batch
) -> Trained:
    """Returns the values for which the loss of an objective has a gradient, by tracing.

    The arguments are those of `shape_checks.reads`.
    """
    student, teacher = sized(student, len(batch.index)), sized(teacher, len(batch.index))

    def gradients(cotangent, params, outputs, state, teacher, batch):
        def mean(params, outputs):
            both_views = with_second(objective, outputs, teacher, batch)
            losses, _ = objective.loss(state._replace(params=params), outputs, teacher, both_views)
            return jnp.mean(losses)

        loss, backward = jax.vjp(mean, params, outputs)
        return backward(cotangent.astype(loss.dtype))

    cotangent = jax.ShapeDtypeStruct((), jnp.float32)
    with errors.user_code("differentiating", f"objective '{name}'"):
        program = jax.make_jaxpr(gradients)(
            cotangent, state.params, student, state, teacher, batch
        ).jaxpr
    results = reached(program, [1] + [0] * (len(program.invars) - 1))
    leaves, structure = jax.tree.flatten(student)
    count = len(results) - len(leaves)
    return Trained(
        jax.tree.unflatten(structure, [bool(result) for result in results[count:]]),
        any(results[:count]),
    )
