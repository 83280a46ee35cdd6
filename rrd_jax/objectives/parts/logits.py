"""Building blocks of objectives on logits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rrd_jax import errors
from rrd_jax.objectives.batch import Batch
from rrd_jax.objectives.parts.arithmetic import centered, ratio, root
from rrd_jax.objectives.parts.checks import as_matching_float32, check_labels


def standardized(logits: jax.Array) -> jax.Array:
    """Computes standardized logits, (z - mean(z)) / std(z) over the classes.

    The student then learns the teacher's relations between classes, and not the scale of its
    logits. The option `standardize=True` of an objective standardizes logits before the softmax;
    the published base temperature is then 2, and the weight of kd 9.

    Args:
      logits: [B, C].

    Returns:
      [B, C] float32 with mean 0 and (population) standard deviation 1; 0 if all logits are equal.

    References:
      Sun et al., arXiv 2403.01427.
    """
    rest = centered(logits.astype(jnp.float32))
    return ratio(rest, root(jnp.mean(jnp.square(rest), axis=-1, keepdims=True)))


def scores(student: jax.Array, teacher: jax.Array, *, standardize: bool) -> tuple[jax.Array, ...]:
    """Returns both logits [B, C] as float32, optionally `standardized`; the teacher's are constant.

    Raises:
      InputError: the two shapes are not the same [B, C].
    """
    student, teacher = as_matching_float32(student, teacher)
    if standardize:
        student, teacher = standardized(student), standardized(teacher)
    return student, teacher


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes - log softmax(logits)[label], [B] in nats, from logits [B, C] and labels [B].

    Raises:
      InputError: labels are not class ids; see `checks.check_labels`.
    """
    check_labels(labels, logits)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def divergence(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """Computes KL(p || q) over the last axis, in nats."""
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def one_against_rest(name: str, logits: jax.Array, classes: jax.Array) -> jax.Array:
    """Returns log (p(class), 1 - p(class)) [B, 2], with p = softmax(logits).

    1 - p is summed over the other classes, since the difference would cancel.

    Args:
      name: name of the objective in messages.
      logits: [B, C].
      classes: [B] int32, class ids.

    Raises:
      InputError: there is one class.
    """
    if logits.shape[-1] < 2:
        raise errors.InputError(
            f"{name} separates a class from all others, but there is one class; use at least two"
        )
    chosen = jax.nn.one_hot(classes, logits.shape[-1], dtype=bool)
    rest = jax.nn.logsumexp(jnp.where(chosen, -jnp.inf, logits), axis=-1, keepdims=True)
    score = jnp.sum(jnp.where(chosen, logits, 0), axis=-1, keepdims=True)
    return jax.nn.log_softmax(jnp.concatenate([score, rest], axis=-1))


def mixed_loss(loss: Callable[[jax.Array], jax.Array], batch: Batch) -> jax.Array:
    """Computes loss(labels) of a batch; for mixed images, the average over both labels by share."""
    losses = loss(batch.label)
    if batch.share is None:
        return losses
    return batch.share * losses + (1 - batch.share) * loss(batch.other_label)


class Views(NamedTuple):
    """Logits of two views of the same images.

    Attributes:
      first: [B, C] logits of the first, weakly changed view.
      second: [B, C] logits of the second, strongly changed view.
    """

    first: jax.Array
    second: jax.Array


def two_views(
    student: Any, teacher: Any, batch: Batch, *, standardize: bool
) -> tuple[Views, Views]:
    """Returns the logits of both views of student and teacher; see `scores`.

    Args:
      student: the student's Outputs for the first view.
      teacher: the teacher's Outputs for the first view.
      batch: the batch, with the outputs for the second view.
      standardize: whether logits are standardized over the classes.
    """
    second = batch.second
    first = scores(student.logits, teacher.logits, standardize=standardize)
    other = scores(second.student.logits, second.teacher.logits, standardize=standardize)
    return Views(first[0], other[0]), Views(first[1], other[1])
