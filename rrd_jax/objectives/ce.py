"""Cross-entropy with the label: no distillation."""

import jax.numpy as jnp

from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.parts.logits import by_share, cross_entropy


def ce() -> Objective:
    """Cross-entropy with the label, in nats; of a mixed image, with both its labels by share."""

    def loss(student, teacher, batch):
        del teacher
        logits = student.logits.astype(jnp.float32)
        return by_share(lambda labels: cross_entropy(logits, labels), batch)

    return stateless(loss, needs_teacher=False)


RECORD = Record(ce, "logits with the label", "-")
