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
    """Computes AB's hinge loss between the signs of student and teacher preactivations.

        e = (s + m)^2 where t <= 0 and s > -m,  (s - m)^2 where t > 0 and s <= m,  else 0
        loss = 3/1000 sum over taps i < n of 2^(i - n + 1) sum_hwc e

    Args:
      connected: [B, H, W, C] s, the student's maps before their last ReLU, in the teacher's shape.
      teacher: [B, H, W, C] t, the teacher's maps before their last ReLU, constant for gradients.
      margin: margin m around 0, > 0.

    Returns:
      [B] losses >= 0; not 0 for equal maps.

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
    """Builds AB on all taps after the stem, before their last ReLU; see `ab_loss`.

    AB trains the student in a stage before distillation; its weight is not used, and its later loss
    is 0. If shapes differ, a convolution with batch norm maps the student's map to the teacher's
    shape.

    Args:
      margin: margin m around 0, > 0.
      epochs: number of epochs of the stage.
      learning_rate: learning rate of the stage; None for the run's.

    Raises:
      InputError: a value is out of range; in `init`, no maps can be paired.
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
    # After the stage, the student learns from labels only.
    needs_labels=True,
)
