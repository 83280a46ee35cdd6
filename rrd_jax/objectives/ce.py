"""Cross-entropy with the labels, without distillation."""

import jax
import jax.numpy as jnp
import optax

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.parts.checks import check_labels
from rrd_jax.objectives.parts.logits import cross_entropy, mixed_loss


def ce(*, label_smoothing: float = 0.0) -> Objective:
    """Builds the cross-entropy with the labels, in nats.

    The loss of a mixed image is the average over both labels, weighted by share.

    Args:
      label_smoothing: share of each target, in [0, 1), that is spread evenly over all classes,
        including the label's, as in PyTorch's cross_entropy (arXiv 1512.00567).

    Raises:
      InputError: label_smoothing is out of range.
    """
    if not 0 <= label_smoothing < 1:
        raise errors.InputError(
            f"objectives.ce.label_smoothing is {label_smoothing}, but must be in [0, 1)"
        )

    def loss(student, teacher, batch):
        del teacher
        logits = student.logits.astype(jnp.float32)
        if not label_smoothing:
            return mixed_loss(lambda labels: cross_entropy(logits, labels), batch)

        def smoothed(labels):
            check_labels(labels, logits)
            targets = jax.nn.one_hot(labels, logits.shape[-1])
            targets = optax.smooth_labels(targets, label_smoothing)
            return optax.softmax_cross_entropy(logits, targets)

        return mixed_loss(smoothed, batch)

    return stateless(loss, needs_teacher=False)


RECORD = Record(
    ce,
    "logits with the labels",
    "-",
    needs_classes=False,
    needs_labels=True,
)
