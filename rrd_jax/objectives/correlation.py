"""Objectives that ask for correlated class scores, by value or by rank, instead of equal ones."""

import math

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, stateless
from rrd_jax.objectives.linear import centred, pair, unit
from rrd_jax.objectives.logits import check_weights, scores, standardized
from rrd_jax.objectives.ranks import soft_rank


def pearson(x: jax.Array, y: jax.Array) -> jax.Array:
    """Pearson's correlation of each row of x with the same row of y.

    Args:
      x: [R, C].
      y: [R, C].

    Returns:
      [R] in [-1, 1]; 0 with gradient 0 where a row is constant.
    """
    return jnp.sum(unit(centred(x)) * unit(centred(y)), axis=-1)


def spearman(x: jax.Array, y: jax.Array, *, rank_temperature: float = 0.1) -> jax.Array:
    """Spearman's correlation, that of the ranks, through `soft_rank` of the standardised rows.

    Args:
      x: [R, C].
      y: [R, C].
      rank_temperature: in standard deviations of a row, > 0.

    Returns:
      [R] in [-1, 1].
    """
    ranks = (soft_rank(standardized(z), rank_temperature) for z in (x, y))
    return pearson(*ranks)


def dist_loss(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: float = 4.0,
    beta: float = 2.0,
    gamma: float = 2.0,
) -> jax.Array:
    """DIST: correlated probabilities over the classes of an image, and over the images of a class.

        between_b = 1 - r(p_s[b, :], p_t[b, :]),  within = mean_c (1 - r(p_s[:, c], p_t[:, c]))
        loss_b    = T^2 (beta between_b + gamma within)

    with p = softmax(z / T) and Pearson's r.

    Args:
      student: [B, C] logits.
      teacher: [B, C] logits, constant for gradients.
      temperature: T > 0; published: 4 for CIFAR, 1 for ImageNet.
      beta: weight between classes, >= 0; published: 2 for CIFAR, 1 for ImageNet.
      gamma: weight within classes, >= 0; the same.

    Returns:
      [B] losses >= 0; the part within classes is the same for the whole batch.

    References:
      Huang et al., arXiv 2205.10536.
    """
    errors.check_positive(temperature=temperature)
    check_weights(beta=beta, gamma=gamma)
    student, teacher = pair(student, teacher)
    p_student, p_teacher = (jax.nn.softmax(x / temperature) for x in (student, teacher))
    between = 1 - pearson(p_student, p_teacher)
    within = jnp.mean(1 - pearson(p_student.T, p_teacher.T))
    return temperature**2 * (beta * between + gamma * within)


def r2kd_loss(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: float = 4.0,
    value: float = 1.0,
    rank: float = 1.0,
    rank_temperature: float = 0.1,
) -> jax.Array:
    """R2KD's correlation distance: by value plus by rank.

        loss = value (1 - pearson(p_s, p_t)) + rank (1 - spearman(z_s, z_t)),  p = softmax(z / T)

    The paper's pruned teacher is a matter of which teacher is loaded. Its ranks are made
    differentiable by projection onto the permutahedron, ours by `soft_rank`.

    Args:
      student: [B, C] logits.
      teacher: [B, C] logits, constant for gradients.
      temperature: T > 0.
      value: weight >= 0.
      rank: weight >= 0.
      rank_temperature: as in `spearman`.

    Returns:
      [B] losses in [0, 2 (value + rank)].

    References:
      Kim et al., arXiv 2311.13934.
    """
    errors.check_positive(temperature=temperature, rank_temperature=rank_temperature)
    check_weights(value=value, rank=rank)
    student, teacher = pair(student, teacher)
    p_student, p_teacher = (jax.nn.softmax(x / temperature) for x in (student, teacher))
    by_value = 1 - pearson(p_student, p_teacher)
    by_rank = 1 - spearman(student, teacher, rank_temperature=rank_temperature)
    return value * by_value + rank * by_rank


def cmkd_loss(
    student: jax.Array,
    teacher: jax.Array,
    *,
    value: float = 1.0,
    rank: float = 1.0,
    by_difficulty: bool = True,
    rank_temperature: float = 0.1,
) -> jax.Array:
    """CMKD: correlated logits, by value for images that the teacher is sure of, by rank otherwise.

        loss = value (1 - h) (1 - pearson(z_s, z_t)) + rank h (1 - spearman(z_s, z_t))

    with the image's difficulty h = H(softmax(z_t)) / log C, the teacher's entropy in [0, 1]. That
    the weights follow the difficulty is the paper's; this way to do it, and `soft_rank`, are ours.

    Args:
      student: [B, C] logits.
      teacher: [B, C] logits, constant for gradients.
      value: weight >= 0.
      rank: weight >= 0.
      by_difficulty: False leaves the factors 1 - h and h out.
      rank_temperature: as in `spearman`.

    Returns:
      [B] losses >= 0. Neither part depends on the scale of the student's logits.

    References:
      Niu et al., arXiv 2410.06561.
    """
    errors.check_positive(rank_temperature=rank_temperature)
    check_weights(value=value, rank=rank)
    student, teacher = pair(student, teacher)
    if by_difficulty:
        log_p = jax.nn.log_softmax(teacher)
        entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
        difficulty = entropy / math.log(max(teacher.shape[-1], 2))
        value, rank = value * (1 - difficulty), rank * difficulty
    by_value = 1 - pearson(student, teacher)
    by_rank = 1 - spearman(student, teacher, rank_temperature=rank_temperature)
    return value * by_value + rank * by_rank


def dist(
    *,
    temperature: float = 4.0,
    beta: float = 2.0,
    gamma: float = 2.0,
    standardize: bool = False,
) -> Objective:
    """DIST; see `dist_loss` and `logits.standardized`."""
    errors.check_positive(temperature=temperature)
    check_weights(beta=beta, gamma=gamma)

    def loss(student, teacher, batch):
        del batch
        logits = scores(student.logits, teacher.logits, standardize=standardize)
        return dist_loss(*logits, temperature=temperature, beta=beta, gamma=gamma)

    return stateless(loss)


def r2kd(
    *,
    temperature: float = 4.0,
    value: float = 1.0,
    rank: float = 1.0,
    rank_temperature: float = 0.1,
    standardize: bool = False,
) -> Objective:
    """R2KD's correlation distance; see `r2kd_loss` and `logits.standardized`."""
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


def cmkd(
    *,
    value: float = 1.0,
    rank: float = 1.0,
    by_difficulty: bool = True,
    rank_temperature: float = 0.1,
) -> Objective:
    """CMKD; see `cmkd_loss`. Standardised logits would give the same correlations."""
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
