"""Relative difficulty distillation (arXiv 2407.03719), for images instead of segmentation."""

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.kd import kd_loss
from rrd_jax.objectives.parts.checks import as_matching_float32, check_shares, check_weights
from rrd_jax.objectives.parts.logits import cross_entropy, divergence, mixed_loss, scores


def agreement(first: jax.Array, second: jax.Array) -> jax.Array:
    """Computes exp(-KL(p_2 || p_1)) of two predictions of the teacher, in (0, 1].

    Args:
      first: [B, C] logits of the first prediction.
      second: [B, C] logits of the second prediction.

    Returns:
      [B] weights, small for images on which the predictions differ.
    """
    log_p_1, log_p_2 = (jax.nn.log_softmax(z.astype(jnp.float32)) for z in (first, second))
    return jnp.exp(-divergence(log_p_2, log_p_1))


def one_is_unsure(
    student: jax.Array, teacher: jax.Array, labels: jax.Array, *, threshold: float = 0.7
) -> jax.Array:
    """Returns True [B] where exactly one network's probability of the label is at most a threshold.

    Args:
      student: [B, C] logits.
      teacher: [B, C] logits.
      labels: [B] int32, class ids.
      threshold: the threshold, in [0, 1].
    """
    student, teacher = as_matching_float32(student, teacher)
    unsure_s, unsure_t = (
        jnp.exp(-cross_entropy(z, labels)) <= threshold for z in (student, teacher)
    )
    return unsure_s != unsure_t


def rdd(
    *,
    first_share: float = 0.1,
    threshold: float = 0.7,
    distillation: float = 1.0,
    temperature: float = 1.0,
    total_steps: int | None = None,
) -> Objective:
    """Builds cross-entropy with the labels that is weighted by difficulty, and distillation.

        loss = weight CE(z_s, y) + distillation l(z_s, z_t),  l = `kd.kd_loss`

    In the first part of the run, the weight is small for images that are difficult for the teacher,
    see `agreement`; the paper compares two heads of the teacher, rrd_jax its predictions for two
    views. Afterwards the weight is 1 for images of which one network is sure and the other is not,
    and 0 for others, see `one_is_unsure`. The objective replaces ce, whose weight is 0.

    Args:
      first_share: share of the run in the first part, in [0, 1]; with 0 there is one view.
      threshold: probability of the label up to which a network is unsure, in [0, 1].
      distillation: weight of the distillation, >= 0.
      temperature: softmax temperature of the distillation, > 0.
      total_steps: number of batches of the run.

    Raises:
      InputError: an option is out of range.

    References:
      Liang et al., arXiv 2407.03719.
    """
    errors.check_positive(temperature=temperature)
    check_weights(distillation=distillation)
    check_shares(first_share=first_share, threshold=threshold)

    def init(key, student, teacher):
        del key, student, teacher
        return ObjectiveState(memory={"steps": jnp.int32(0)} if first_share else ())

    def loss(state, student, teacher, batch):
        logits, memory = scores(student.logits, teacher.logits, standardize=False), state.memory
        is_first, weights = False, 0.0
        if first_share:
            is_first = memory["steps"] < first_share * (total_steps or 1)
            weights = agreement(logits[1], jax.lax.stop_gradient(batch.second.teacher.logits))
            memory = {"steps": memory["steps"] + 1}

        def weighted(labels):
            is_used = one_is_unsure(*logits, labels, threshold=threshold)
            return jnp.where(is_first, weights, is_used) * cross_entropy(logits[0], labels)

        losses = mixed_loss(weighted, batch)
        return losses + distillation * kd_loss(*logits, temperature=temperature), memory

    return Objective(init, loss, needs_maps=False, needs_second=first_share > 0)


RECORD = Record(
    rdd,
    "softened probabilities; labels where one network is unsure",
    "arXiv 2407.03719",
    verified=False,
    # The objective contains cross-entropy.
    company={"ce": 0.0},
    needs_labels=True,
    filled_in=("total_steps",),
)
