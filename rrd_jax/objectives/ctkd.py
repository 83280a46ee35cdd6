"""Curriculum temperature for knowledge distillation (arXiv 2211.16231)."""

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.kd import kd_loss
from rrd_jax.objectives.parts.logits import scores


def reversed_gradient(x: jax.Array, factor: float | jax.Array) -> jax.Array:
    """Returns x, whose gradient is multiplied by -factor."""
    fixed = jax.lax.stop_gradient(x)
    return fixed - factor * (x - fixed)


def ctkd(
    *,
    start: float = 1.0,
    span: float = 20.0,
    ramp_epochs: int = 10,
    standardize: bool = False,
    steps_per_epoch: int | None = None,
) -> Objective:
    """Builds distillation with a temperature that is trained to increase the loss.

    T = start + span sigmoid(h), with a scalar h of initial value 1, and the loss is `kd.kd_loss` at
    temperature T. The student decreases the loss; h has the negative gradient, times a factor that
    rises from 0 to 1 as half a cosine over the first epochs, so that the student's task becomes
    more difficult. The optimizer trains h with the student, including weight decay. Published for
    ImageNet: ramp_epochs 5, weights 1 of ce and ctkd.

    Args:
      start: smallest temperature, > 0.
      span: largest temperature minus the smallest, > 0.
      ramp_epochs: epochs until the factor is 1, at least 1.
      standardize: whether logits are standardized over the classes before the softmax; see
        `parts.logits.standardized`.
      steps_per_epoch: number of batches of an epoch.

    Raises:
      InputError: an option is out of range.

    References:
      Li et al., arXiv 2211.16231.
    """
    errors.check_positive(start=start, span=span)
    errors.check_counts(ramp_epochs=ramp_epochs)
    steps = steps_per_epoch or 1

    def init(key, student, teacher):
        del key, student, teacher
        return ObjectiveState({"temperature": jnp.ones(1)}, memory={"steps": jnp.int32(0)})

    def loss(state, student, teacher, batch):
        del batch
        done = state.memory["steps"]
        # The factor changes at the start of an epoch, from 1 on, as in the published code.
        share = jnp.minimum((done // steps + 1) / ramp_epochs, 1.0)
        factor = (1 - jnp.cos(jnp.pi * share)) / 2
        scalar = reversed_gradient(state.params["temperature"][0], factor)
        temperature = start + span * jax.nn.sigmoid(scalar)
        logits = scores(student.logits, teacher.logits, standardize=standardize)
        return kd_loss(*logits, temperature=temperature), {"steps": done + 1}

    return Objective(init, loss, needs_maps=False)


RECORD = Record(
    ctkd,
    "softened probabilities, by KL divergence at an adversarial temperature",
    "arXiv 2211.16231",
    alone={"ce": 0.1, "ctkd": 0.9},
    filled_in=("steps_per_epoch",),
)
