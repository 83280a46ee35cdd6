"""Transformed teacher matching, weighted or not (arXiv 2402.11148)."""

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.parts.checks import as_matching_float32
from rrd_jax.objectives.parts.logits import divergence, scores


def wttm_loss(
    student: jax.Array, teacher: jax.Array, *, power: float = 0.2, weighted: bool = True
) -> jax.Array:
    """Computes transformed teacher matching: only the teacher's distribution is smoothed.

        loss = w KL(q || p_s),  q = p_t^g / sum_c p_t^g,  w = sum_c p_t^g

    with p = softmax(z). The weight w, in [1, C^(1 - g)], is larger for images on which the teacher
    is less certain; at g 0.2 its maximum is 40 for 100 classes and 6 for 10 classes, so that the
    weight of the term depends on the number of classes.

    Args:
      student: [B, C] logits.
      teacher: [B, C] logits, constant for gradients.
      power: exponent g, > 0; 1 / g is the temperature of the teacher's softmax.
      weighted: whether images are weighted by w; False for TTM.

    Returns:
      [B] losses in nats, >= 0.

    References:
      Zheng and Yang, arXiv 2402.11148.
    """
    errors.check_positive(power=power)
    student, teacher = as_matching_float32(student, teacher)
    losses = divergence(jax.nn.log_softmax(power * teacher), jax.nn.log_softmax(student))
    if not weighted:
        return losses
    total, scaled = jax.nn.logsumexp(teacher, axis=-1), jax.nn.logsumexp(power * teacher, axis=-1)
    return jnp.exp(scaled - power * total) * losses


def wttm(*, power: float = 0.2, weighted: bool = True, standardize: bool = False) -> Objective:
    """Builds weighted transformed teacher matching; see `wttm_loss`.

    The default power and weight are those of the published example with crd, vgg13 to vgg8. The
    published example of TTM, weighted=False, has power 0.1 and weight 45. The settings of other
    pairs are not in the published code.

    Args:
      power: exponent of the teacher's probabilities, > 0.
      weighted: whether images are weighted by the sum of the powers; False for TTM.
      standardize: whether logits are standardized over the classes before the softmax; see
        `parts.logits.standardized`.
    """
    errors.check_positive(power=power)

    def loss(student, teacher, batch):
        del batch
        logits = scores(student.logits, teacher.logits, standardize=standardize)
        return wttm_loss(*logits, power=power, weighted=weighted)

    return stateless(loss)


RECORD = Record(
    wttm,
    "the teacher's probabilities to a power, by KL divergence",
    "arXiv 2402.11148",
    weight=4.0,
)
