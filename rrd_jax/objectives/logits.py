"""Objectives over class scores: cross-entropy with the label, and what compares probabilities."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from rrd_jax import errors
from rrd_jax.batch import Batch
from rrd_jax.objectives.base import Objective, stateless
from rrd_jax.objectives.linear import centred, pair, ratio, root


def standardized(logits: jax.Array) -> jax.Array:
    """Logit standardisation: (z - mean(z)) / std(z) over the classes, a transform before a softmax.

    The student is then asked for the teacher's relations between classes, and not for its scale.
    `standardize=True` puts it in front of an objective's softmax; the published base temperature is
    then 2, and the weight of kd 9.

    Args:
      logits: [B, C].

    Returns:
      [B, C] float32 of mean 0 and (population) standard deviation 1; 0 where all logits are equal.

    References:
      Sun et al., arXiv 2403.01427.
    """
    rest = centred(logits.astype(jnp.float32))
    return ratio(rest, root(jnp.mean(jnp.square(rest), axis=-1, keepdims=True)))


def scores(student: jax.Array, teacher: jax.Array, *, standardize: bool) -> tuple[jax.Array, ...]:
    """Logits as float32, the teacher's constant, both standardised if wished.

    Raises:
      InputError: they are not [B, C] both.
    """
    student, teacher = pair(student, teacher)
    if standardize:
        student, teacher = standardized(student), standardized(teacher)
    return student, teacher


def kd_loss(student: jax.Array, teacher: jax.Array, *, temperature: float) -> jax.Array:
    """Knowledge distillation: T^2 KL(softmax(teacher / T) || softmax(student / T)).

    Args:
      student: [B, C] logits.
      teacher: [B, C] logits, constant for gradients.
      temperature: T > 0; 4 in the distillation literature.

    Returns:
      [B] losses in nats, >= 0.

    References:
      Hinton et al., arXiv 1503.02531.
    """
    errors.check_positive(temperature=temperature)
    student, teacher = pair(student, teacher)
    log_p_teacher = jax.nn.log_softmax(teacher / temperature)
    log_p_student = jax.nn.log_softmax(student / temperature)
    return temperature**2 * _divergence(log_p_teacher, log_p_student)


def wsld_loss(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array,
    *,
    temperature: float = 2.0,
    alpha: float = 2.5,
    standardize: bool = False,
) -> jax.Array:
    """Weighted soft labels: the teacher counts for more where the student is behind it.

        w    = 1 - exp(-CE(student, label) / (CE(teacher, label) + 1e-7))
        loss = CE(student, label) - alpha T^2 w sum_k p_t(k) log p_s(k),  p = softmax(z / T)

    It contains the cross-entropy: use it without `ce`.

    Args:
      student: [B, C] logits.
      teacher: [B, C] logits, constant for gradients, as w is.
      labels: [B] int32.
      temperature: T > 0.
      alpha: weight > 0 of the soft part.
      standardize: whether p is that of `standardized` logits; CE is not.

    Returns:
      [B] losses in nats, >= 0.

    References:
      Zhou et al., arXiv 2102.00650.
    """
    errors.check_positive(temperature=temperature, alpha=alpha)
    soft_student, soft_teacher = scores(student, teacher, standardize=standardize)
    student, teacher = pair(student, teacher)
    hard, hard_teacher = (_cross_entropy(x, labels) for x in (student, teacher))
    weight = -jnp.expm1(-jax.lax.stop_gradient(hard / (hard_teacher + 1e-7)))
    p_teacher = jax.nn.softmax(soft_teacher / temperature)
    soft = -jnp.sum(p_teacher * jax.nn.log_softmax(soft_student / temperature), axis=-1)
    return hard + alpha * temperature**2 * weight * soft


def dkd_loss(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> jax.Array:
    """Decoupled distillation: the label's probability, and how the rest is shared out.

        loss = alpha T^2 KL(b_t || b_s) + beta T^2 KL(q_t || q_s)

    with p = softmax(z / T), b = (p(label), 1 - p(label)) and q = p without the label, summing to 1.
    With beta = 1 - p_t(label) and alpha = 1 it is `kd_loss`.

    Args:
      student: [B, C] logits, C >= 2.
      teacher: [B, C] logits, constant for gradients.
      labels: [B] int32.
      temperature: T > 0.
      alpha: weight of the label's part, >= 0.
      beta: weight of the other classes' part, >= 0.

    Returns:
      [B] losses in nats, >= 0.

    Raises:
      InputError: a value out of range, or fewer than two classes.

    References:
      Zhao et al., arXiv 2203.08679.
    """
    errors.check_positive(temperature=temperature)
    check_weights(alpha=alpha, beta=beta)
    student, teacher = pair(student, teacher)
    if student.shape[-1] < 2:
        raise errors.InputError("dkd tells the label from other classes, but there is one class")
    (label_s, others_s), (label_t, others_t) = (
        _decoupled(x / temperature, labels) for x in (student, teacher)
    )
    target, rest = _divergence(label_t, label_s), _divergence(others_t, others_s)
    return temperature**2 * (alpha * target + beta * rest)


def ce() -> Objective:
    """Cross-entropy with the label, in nats; of a mixed image, with both its labels by share."""

    def loss(student, teacher, batch):
        del teacher
        logits = student.logits.astype(jnp.float32)
        return _by_share(lambda labels: _cross_entropy(logits, labels), batch)

    return stateless(loss, needs_teacher=False)


def kd(*, temperature: float = 4.0, standardize: bool = False) -> Objective:
    """Knowledge distillation on the logits; see `kd_loss` and `standardized`."""
    errors.check_positive(temperature=temperature)

    def loss(student, teacher, batch):
        del batch
        logits = scores(student.logits, teacher.logits, standardize=standardize)
        return kd_loss(*logits, temperature=temperature)

    return stateless(loss)


def wsld(*, temperature: float = 2.0, alpha: float = 2.5, standardize: bool = False) -> Objective:
    """Weighted soft labels; see `wsld_loss`. Contains the cross-entropy: give `ce` no weight."""
    errors.check_positive(temperature=temperature, alpha=alpha)
    options = {"temperature": temperature, "alpha": alpha, "standardize": standardize}

    def loss(student, teacher, batch):
        return _by_share(
            lambda labels: wsld_loss(student.logits, teacher.logits, labels, **options), batch
        )

    return stateless(loss)


def dkd(
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    standardize: bool = False,
) -> Objective:
    """Decoupled distillation; see `dkd_loss` and `standardized`.

    The paper raises its weight linearly over the first 20 epochs, which is the trainer's to do.
    """
    errors.check_positive(temperature=temperature)
    check_weights(alpha=alpha, beta=beta)

    def loss(student, teacher, batch):
        logits = scores(student.logits, teacher.logits, standardize=standardize)
        return _by_share(
            lambda labels: dkd_loss(
                *logits, labels, temperature=temperature, alpha=alpha, beta=beta
            ),
            batch,
        )

    return stateless(loss)


def check_weights(**values: float) -> None:
    """Raises an InputError for the first value that is below zero or not finite."""
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise errors.InputError(f"{name} is {value}, but must be a finite number, 0 or above")


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _divergence(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """KL(p || q) over the last axis."""
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def _decoupled(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log (p(label), 1 - p(label)) as [B, 2]; log of the others' shares as [B, C], 0 at the label.

    1 - p(label) is summed from the others, since the difference would cancel.
    """
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, logits), axis=-1, keepdims=True)
    own = jnp.sum(jnp.where(is_label, logits, 0), axis=-1, keepdims=True)
    # The zeros at the label, in p and in q alike, add nothing to a divergence.
    shares = jnp.where(is_label, 0, logits - others)
    return jax.nn.log_softmax(jnp.concatenate([own, others], axis=-1)), shares


def _by_share(loss: Callable[[jax.Array], jax.Array], batch: Batch) -> jax.Array:
    """loss(labels); of a mixed image, that of both its labels by share."""
    losses = loss(batch.label)
    if batch.share is None:
        return losses
    return batch.share * losses + (1 - batch.share) * loss(batch.other_label)
