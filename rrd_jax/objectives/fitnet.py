"""FitNet: regression of one feature map (arXiv 1412.6550)."""

import jax

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import adapters
from rrd_jax.objectives.parts.arithmetic import mean_square
from rrd_jax.objectives.parts.pooling import pool_larger


def fitnet_loss(adapted: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes FitNet's hint loss: the mean square of r(student) - teacher, with a regressor r.

    Args:
      adapted: [B, H, W, C] r(student).
      teacher: [B, H', W', C], constant for gradients; the larger of the two maps is pooled first.

    Returns:
      [B] losses >= 0.

    References:
      Romero et al., arXiv 1412.6550.
    """
    return mean_square(*pool_larger(adapted, teacher))


def fitnet(*, tap: int = 2) -> Objective:
    """Builds FitNet without a separate stage: the regressor is trained with the student.

    See `fitnet_loss`.

    Args:
      tap: index of the compared map in both networks, 0 for the stem.

    Raises:
      InputError: the tap is negative; in `init`, a network does not have the tap.
    """
    if tap < 0:
        raise errors.InputError(f"tap is {tap}, but must be at least 0")

    def layers(student, teacher):
        count = min(len(student.maps), len(teacher.maps))
        if tap >= count:
            raise errors.InputError(
                f"tap is {tap}, but the networks share only {count} taps; set tap below {count}"
            )
        return adapters.regressor(student.maps[tap].shape, teacher.maps[tap].shape)

    def init(key, student, teacher):
        stack = layers(student, teacher)
        return ObjectiveState(params=adapters.init(key, stack, student.maps[tap].shape[-1]))

    def loss(state, student, teacher, batch):
        del batch
        adapted = adapters.apply(layers(student, teacher), state.params, student.maps[tap])
        return fitnet_loss(adapted, teacher.maps[tap]), state.memory

    return Objective(init, loss)


RECORD = Record(
    fitnet,
    "one adapted map, elementwise",
    "arXiv 1412.6550",
    weight=100.0,
    needs_classes=False,
)
