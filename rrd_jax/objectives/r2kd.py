"""R2KD: correlation of probabilities and of logit ranks (arXiv 2311.13934)."""

import jax

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.parts.checks import as_matching_float32, check_weights
from rrd_jax.objectives.parts.correlations import pearson, spearman
from rrd_jax.objectives.parts.logits import scores


def r2kd_loss(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: float = 4.0,
    value: float = 1.0,
    rank: float = 1.0,
    rank_temperature: float = 0.1,
) -> jax.Array:
    """Computes R2KD's correlation distance of values and ranks.

        loss = value (1 - pearson(p_s, p_t)) + rank (1 - spearman(z_s, z_t)),  p = softmax(z / T)

    The paper also prunes the teacher; load a pruned teacher for that. The paper computes
    differentiable ranks by projection onto the permutahedron, rrd_jax by
    `parts.correlations.soft_rank`.

    Args:
      student: [B, C] logits.
      teacher: [B, C] logits, constant for gradients.
      temperature: softmax temperature T, > 0.
      value: weight of the correlation of probabilities, >= 0.
      rank: weight of the correlation of ranks, >= 0.
      rank_temperature: temperature of the soft ranks, > 0, see `parts.correlations.spearman`.

    Returns:
      [B] losses in [0, 2 (value + rank)].

    References:
      Kim et al., arXiv 2311.13934.
    """
    errors.check_positive(temperature=temperature, rank_temperature=rank_temperature)
    check_weights(value=value, rank=rank)
    student, teacher = as_matching_float32(student, teacher)
    p_student, p_teacher = (jax.nn.softmax(x / temperature) for x in (student, teacher))
    by_value = 1 - pearson(p_student, p_teacher)
    by_rank = 1 - spearman(student, teacher, rank_temperature=rank_temperature)
    return value * by_value + rank * by_rank


def r2kd(
    *,
    temperature: float = 4.0,
    value: float = 1.0,
    rank: float = 1.0,
    rank_temperature: float = 0.1,
    standardize: bool = False,
) -> Objective:
    """Builds R2KD; see `r2kd_loss`.

    Args:
      temperature: softmax temperature T, > 0.
      value: weight of the correlation of probabilities, >= 0.
      rank: weight of the correlation of ranks, >= 0.
      rank_temperature: temperature of the soft ranks, > 0; see `parts.correlations.spearman`.
      standardize: whether logits are standardized over the classes before the softmax; see
        `parts.logits.standardized`.
    """
    errors.check_positive(temperature=temperature, rank_temperature=rank_temperature)
    check_weights(value=value, rank=rank)
    options = {
        "temperature": temperature,
        "value": value,
        "rank": rank,
        "rank_temperature": rank_temperature,
    }

    def loss(student, teacher, batch):
        del batch
        logits = scores(student.logits, teacher.logits, standardize=standardize)
        return r2kd_loss(*logits, **options)

    return stateless(loss)


RECORD = Record(
    r2kd,
    "correlations of probabilities and of logit ranks",
    "arXiv 2311.13934",
    verified=False,
)
