"""Training stages before distillation."""

from collections.abc import Callable

import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Loss, Objective, Stage


def stage(loss: Loss, *, student: bool, epochs: int, learning_rate: float | None) -> Stage:
    """Returns a Stage after checking its attributes.

    Raises:
      InputError: epochs or learning rate are not above 0.
    """
    errors.check_positive(epochs=epochs)
    if learning_rate is not None:
        errors.check_positive(learning_rate=learning_rate)
    return Stage(loss, student, epochs, learning_rate)


def stage_only(
    init: Callable, pairs: Callable, stage_loss: Loss, epochs: int, learning_rate: float | None
) -> Objective:
    """Returns an objective that trains the student in its stage only; its later loss is 0.

    Args:
      init: function like Objective.init.
      pairs: function like Objective.taps.
      stage_loss: loss of the stage.
      epochs: number of epochs of the stage.
      learning_rate: learning rate of the stage; None for the run's.
    """

    def zero(state, student, teacher, batch):
        del teacher, batch
        return jnp.zeros(len(student.maps[-1])), state.memory

    before = stage(stage_loss, student=True, epochs=epochs, learning_rate=learning_rate)
    return Objective(init, zero, stage=before, taps=pairs)
