"""AB: activation boundaries (arXiv 1811.03233)."""

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import adapters
from rrd_jax.objectives.parts.maps import Maps, before_relu
from rrd_jax.objectives.parts.pooling import pool
from rrd_jax.objectives.parts.stages import stage_only


def ab_loss(connected: Maps, teacher: Maps, *, margin: float = 1.0) -> jax.Array:
    """Activation boundaries: the student's neurons are to be on the same side as the teacher's.

        e = (s + m)^2 where t <= 0 and s > -m,  (s - m)^2 where t > 0 and s <= m,  else 0
        loss = 3/1000 sum over taps i < n of 2^(i - n + 1) sum_hwc e

    Args:
      connected: [B, H, W, C] s, the student's maps before their last ReLU in the teacher's shape.
      teacher: the same shapes t, before the last ReLU, constant for gradients.
      margin: m > 0.

    Returns:
      [B] losses >= 0; those of equal maps are not 0.

    References:
      Heo et al., arXiv 1811.03233.
    """
    errors.check_positive(margin=margin)
    total = 0.0
    for i, (s, t) in enumerate(zip(connected, teacher, strict=True)):
        s, active = s.astype(jnp.float32), jax.lax.stop_gradient(t) > 0
        low = jnp.where(~active & (s > -margin), s + margin, 0.0)
        high = jnp.where(active & (s <= margin), s - margin, 0.0)
        excess = jnp.sum(jnp.square(low) + jnp.square(high), axis=(1, 2, 3))
        total += 2.0 ** (i - len(teacher) + 1) * excess
    return 3 / 1000 * total


def ab(*, margin: float = 1.0, epochs: int = 30, learning_rate: float | None = None) -> Objective:
    """AB over all taps behind the stem, before their last ReLU; see `ab_loss`.

    It trains in a stage before distillation, which has no weight; afterwards its loss is 0. Where
    shapes differ a convolution with batch norm connects the student's map.

    Args:
      margin: m > 0.
      epochs: of the stage.
      learning_rate: of the stage; None is the run's.

    Raises:
      InputError: a value out of range; in `init`, maps that cannot be brought to the teacher's.
    """
    errors.check_positive(margin=margin)

    def connector(student, teacher):
        if student.shape[1:] == teacher.shape[1:]:
            return ()
        return adapters.regressor(student.shape, teacher.shape, slope=1.0)

    def init(key, student, teacher):
        pairs = before_relu(student, teacher)
        stacks = [connector(s, t) for s, t in pairs]
        channels = [s.shape[-1] for s, _ in pairs]
        return ObjectiveState(frozen=adapters.init_per_tap(key, stacks, channels))

    def stage_loss(state, student, teacher, batch):
        del batch
        connected, targets = [], []
        for i, (s, t) in enumerate(before_relu(student, teacher)):
            s = adapters.apply(connector(s, t), state.frozen[f"tap{i}"], s)
            targets.append(pool(t, *s.shape[1:3]))
            connected.append(s)
        return ab_loss(connected, targets, margin=margin), state.memory

    return stage_only(init, before_relu, stage_loss, epochs, learning_rate)


RECORD = Record(
    ab,
    "signs of maps before their ReLU",
    "arXiv 1811.03233",
    needs_classes=False,
    needs_labels=True,  # alone they teach the student once its stage is over
)
