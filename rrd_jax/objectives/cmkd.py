"""CMKD: correlation of logits by value and by rank (arXiv 2410.06561)."""

import math

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.parts.checks import as_matching_float32, check_weights
from rrd_jax.objectives.parts.correlations import pearson, spearman


def cmkd_loss(
    student: jax.Array,
    teacher: jax.Array,
    *,
    value: float = 1.0,
    rank: float = 1.0,
    by_difficulty: bool = True,
    rank_temperature: float = 0.1,
) -> jax.Array:
    """Computes CMKD: correlations of logits, by value for easy and by rank for difficult images.

        loss = value (1 - h) (1 - pearson(z_s, z_t)) + rank h (1 - spearman(z_s, z_t))

    with the difficulty h = H(softmax(z_t)) / log C of an image, the teacher's normalized entropy in
    [0, 1]. Weights that depend on the difficulty follow the paper; this formula and
    `parts.correlations.soft_rank` are specific to rrd_jax.

    Args:
      student: [B, C] logits.
      teacher: [B, C] logits, constant for gradients.
      value: weight of the correlation of values, >= 0.
      rank: weight of the correlation of ranks, >= 0.
      by_difficulty: whether weights depend on the difficulty; if False, the factors 1 - h and h are
        omitted.
      rank_temperature: temperature of the soft ranks, > 0, see `parts.correlations.spearman`.

    Returns:
      [B] losses >= 0, independent of the scale of the student's logits.

    References:
      Niu et al., arXiv 2410.06561.
    """
    errors.check_positive(rank_temperature=rank_temperature)
    check_weights(value=value, rank=rank)
    student, teacher = as_matching_float32(student, teacher)
    if by_difficulty:
        log_p = jax.nn.log_softmax(teacher)
        entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
        difficulty = entropy / math.log(max(teacher.shape[-1], 2))
        value, rank = value * (1 - difficulty), rank * difficulty
    by_value = 1 - pearson(student, teacher)
    by_rank = 1 - spearman(student, teacher, rank_temperature=rank_temperature)
    return value * by_value + rank * by_rank


def cmkd(
    *,
    value: float = 1.0,
    rank: float = 1.0,
    by_difficulty: bool = True,
    rank_temperature: float = 0.1,
) -> Objective:
    """Builds CMKD; see `cmkd_loss`.

    There is no option to standardize logits, because correlations would not change.
    """
    errors.check_positive(rank_temperature=rank_temperature)
    check_weights(value=value, rank=rank)
    options = {
        "value": value,
        "rank": rank,
        "by_difficulty": by_difficulty,
        "rank_temperature": rank_temperature,
    }

    def loss(student, teacher, batch):
        del batch
        return cmkd_loss(student.logits, teacher.logits, **options)

    return stateless(loss)


RECORD = Record(
    cmkd,
    "correlations of logits, by value or by rank, weighted by difficulty",
    "arXiv 2410.06561",
    verified=False,
)
