"""DIST: correlation of probabilities between and within classes (arXiv 2205.10536)."""

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.parts.checks import as_matching_float32, check_weights
from rrd_jax.objectives.parts.correlations import pearson
from rrd_jax.objectives.parts.logits import scores


def dist_loss(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: float = 4.0,
    beta: float = 2.0,
    gamma: float = 2.0,
) -> jax.Array:
    """Computes DIST: correlations of probabilities over classes and over the images of a class.

        between_b = 1 - r(p_s[b, :], p_t[b, :]),  within = mean_c (1 - r(p_s[:, c], p_t[:, c]))
        loss_b    = T^2 (beta between_b + gamma within)

    with p = softmax(z / T) and Pearson's r.

    Args:
      student: [B, C] logits.
      teacher: [B, C] logits, constant for gradients.
      temperature: softmax temperature T, > 0; published: 4 for CIFAR, 1 for ImageNet.
      beta: weight of the correlation between classes, >= 0; published: 2 for CIFAR, 1 for ImageNet.
      gamma: weight of the correlation within classes, >= 0; published: 2 for CIFAR, 1 for ImageNet.

    Returns:
      [B] losses >= 0; the part within classes is constant over the batch.

    References:
      Huang et al., arXiv 2205.10536.
    """
    errors.check_positive(temperature=temperature)
    check_weights(beta=beta, gamma=gamma)
    student, teacher = as_matching_float32(student, teacher)
    p_student, p_teacher = (jax.nn.softmax(x / temperature) for x in (student, teacher))
    between = 1 - pearson(p_student, p_teacher)
    within = jnp.mean(1 - pearson(p_student.T, p_teacher.T))
    return temperature**2 * (beta * between + gamma * within)


def dist(
    *,
    temperature: float = 4.0,
    beta: float = 2.0,
    gamma: float = 2.0,
    standardize: bool = False,
) -> Objective:
    """Builds DIST; see `dist_loss`.

    Published for ImageNet: temperature, beta and gamma 1.

    Args:
      temperature: softmax temperature T, > 0.
      beta: weight of the correlation between classes, >= 0.
      gamma: weight of the correlation within classes, >= 0.
      standardize: whether logits are standardized over the classes before the softmax; see
        `parts.logits.standardized`.
    """
    errors.check_positive(temperature=temperature)
    check_weights(beta=beta, gamma=gamma)

    def loss(student, teacher, batch):
        del batch
        logits = scores(student.logits, teacher.logits, standardize=standardize)
        return dist_loss(*logits, temperature=temperature, beta=beta, gamma=gamma)

    return stateless(loss)


RECORD = Record(
    dist, "correlations of probabilities over classes and over images", "arXiv 2205.10536"
)
