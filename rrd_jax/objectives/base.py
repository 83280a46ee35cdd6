"""What an objective is: a pair of pure functions, in the idiom of Optax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class ObjectiveState(NamedTuple):
    """What an objective carries beside the student.

    Attributes:
      params: trained together with the student (adapters, projections).
      frozen: constants that must outlive a restart, never seen by the optimizer; a Stage trains
        them before.
      memory: what the objective itself rewrites at every step (queues, banks).
    """

    params: Any = ()
    frozen: Any = ()
    memory: Any = ()


class Stage(NamedTuple):
    """What an objective trains before distillation starts, on this loss alone.

    In the stage the mean of `loss` alone is descended, with no weight, by the run's optimizer. It
    moves the objective's `frozen`, and with `student` the student's parameters but for its
    classifier, and nothing else: no decay either. The student's batch statistics move with its
    parameters. Optimizer state and learning rate start afresh after it.

    Attributes:
      loss: as Objective.loss; its memory becomes the objective's.
      student: whether the student is trained too.
      epochs: how long, before the run's first epoch.
      learning_rate: constant; None is the run's first one.
    """

    loss: Callable[[ObjectiveState, Any, Any, Any], tuple[jax.Array, Any]]
    student: bool
    epochs: int = 30
    learning_rate: float | None = None


class Objective(NamedTuple):
    """A term of the total loss.

    Attributes:
      init: (key, student, teacher) -> ObjectiveState. `student` and `teacher` are the
        networks' Outputs as shapes, but for `teacher.head`, which holds arrays; `teacher` is None
        when there is none.
      loss: (state, student, teacher, batch) -> (loss [B], new memory). `teacher` is constant
        for gradients. `batch` holds `label` [B] int32 and `index` [B] int32, the examples'
        positions in the training split. A loss that is no sum over images may be a scalar.
      needs_teacher: whether `loss`, or the stage's, reads the teacher's outputs.
      stage: what comes before, or None.
      predict: (state, student) -> logits [B, C], of what takes the place of the student's own
        classifier in evaluation; None where that one stays.
      taps: (student, teacher) -> the pairs of maps [B, H, W, channels] that are compared; None
        where there are no such pairs.
      needs_maps: whether `loss` reads more of the teacher than logits, embedding and head, which
        can be remembered.
    """

    init: Callable[[jax.Array, Any, Any], ObjectiveState]
    loss: Callable[[ObjectiveState, Any, Any, Any], tuple[jax.Array, Any]]
    needs_teacher: bool = True
    stage: Stage | None = None
    predict: Callable[[ObjectiveState, Any], jax.Array] | None = None
    taps: Callable[[Any, Any], list[tuple[Any, Any]]] | None = None
    needs_maps: bool = True


def stateless(
    loss: Callable[[Any, Any, Any], jax.Array],
    *,
    needs_teacher: bool = True,
    needs_maps: bool = False,
) -> Objective:
    """An objective that carries nothing: `loss` is (student, teacher, batch) -> [B]."""
    return Objective(
        init=lambda key, student, teacher: ObjectiveState(),
        loss=lambda state, student, teacher, batch: (loss(student, teacher, batch), state.memory),
        needs_teacher=needs_teacher,
        needs_maps=needs_maps,
    )
