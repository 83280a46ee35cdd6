"""What an objective is: a pair of pure functions, in the idiom of Optax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class ObjectiveState(NamedTuple):
    """What an objective carries beside the student.

    Attributes:
      params: trained together with the student (adapters, projections).
      frozen: constants that must outlive a restart, never seen by the optimizer.
      memory: what the objective itself rewrites at every step (queues, banks).
    """

    params: Any = ()
    frozen: Any = ()
    memory: Any = ()


class Objective(NamedTuple):
    """A term of the total loss.

    Attributes:
      init: (key, student, teacher) -> ObjectiveState. `student` and `teacher` are the
        networks' Outputs as shapes; `teacher` is None when there is none.
      loss: (state, student, teacher, batch) -> (loss [B], new memory). `teacher` is constant
        for gradients. `batch` holds `label` [B] int32 and `index` [B] int32, the examples'
        positions in the training split. A loss that is no sum over images may be a scalar.
      needs_teacher: whether `loss` reads the teacher's outputs.
    """

    init: Callable[[jax.Array, Any, Any], ObjectiveState]
    loss: Callable[[ObjectiveState, Any, Any, Any], tuple[jax.Array, Any]]
    needs_teacher: bool = True


def stateless(loss: Callable[[Any, Any, Any], jax.Array], *, needs_teacher: bool) -> Objective:
    """An objective that carries nothing: `loss` is (student, teacher, batch) -> [B]."""
    return Objective(
        init=lambda key, student, teacher: ObjectiveState(),
        loss=lambda state, student, teacher, batch: (loss(student, teacher, batch), state.memory),
        needs_teacher=needs_teacher,
    )
