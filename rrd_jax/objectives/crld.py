"""Cross-view consistency regularization (arXiv 2412.16493)."""

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.kd import kd_loss
from rrd_jax.objectives.parts.checks import check_shares, check_weights
from rrd_jax.objectives.parts.logits import Views, cross_entropy, two_views


def crld_loss(
    student: Views,
    teacher: Views,
    *,
    temperature: float = 4.0,
    within: float = 2.0,
    across: float = 0.5,
    confident_first: float = 0.9,
    confident_second: float = 0.2,
) -> jax.Array:
    """Computes distillation within and across two views, where the teacher is confident.

        loss = within m_1 [l(s_1, t_1) + l(s_2, t_2)] + across m_2 [l(s_2, t_1) + l(s_1, t_2)]

    with l = `kd.kd_loss` and m_v 1 for images on whose view v the teacher's largest probability is
    at least a threshold, and 0 otherwise.

    Args:
      student: the student's logits.
      teacher: the teacher's logits, constant for gradients.
      temperature: softmax temperature of l, > 0.
      within: weight of the same view, >= 0.
      across: weight of the other view, >= 0.
      confident_first: threshold of the first view, in [0, 1].
      confident_second: threshold of the second view, in [0, 1].

    Returns:
      [B] losses in nats, >= 0.

    References:
      Zhang et al., arXiv 2412.16493.
    """
    errors.check_positive(temperature=temperature)
    check_weights(within=within, across=across)

    def distilled(s, t):
        return kd_loss(s, t, temperature=temperature)

    is_sure_1, is_sure_2 = (
        jnp.max(jax.nn.softmax(z.astype(jnp.float32)), axis=-1) >= threshold
        for z, threshold in zip(teacher, (confident_first, confident_second), strict=True)
    )
    same = distilled(student.first, teacher.first) + distilled(student.second, teacher.second)
    other = distilled(student.second, teacher.first) + distilled(student.first, teacher.second)
    return within * jnp.where(is_sure_1, same, 0) + across * jnp.where(is_sure_2, other, 0)


def crld(
    *,
    temperature: float = 4.0,
    within: float = 2.0,
    across: float = 0.5,
    confident_first: float = 0.9,
    confident_second: float = 0.2,
    labels: float = 1.0,
    standardize: bool = False,
) -> Objective:
    """Builds the regularization across two views; see `crld_loss`.

    The loss also contains the cross-entropy of the second view, with weight `labels`; that of the
    first view is the objective ce. Published for ImageNet: temperature 1, weight 2 of ce, labels 2.

    Args:
      temperature: softmax temperature, > 0.
      within: weight of the distillation within a view, >= 0.
      across: weight of the distillation across views, >= 0.
      confident_first: least probability of the teacher's top class in the first view for
        distillation within views, in [0, 1].
      confident_second: the same in the second view, for distillation across views.
      labels: weight of the cross-entropy of the second view, >= 0.
      standardize: whether logits are standardized over the classes before the softmax of the
        distillation; see `parts.logits.standardized`.

    Raises:
      InputError: an option is out of range.
    """
    errors.check_positive(temperature=temperature)
    check_weights(within=within, across=across)
    check_weights(labels=labels)
    check_shares(confident_first=confident_first, confident_second=confident_second)
    options = {
        "temperature": temperature,
        "within": within,
        "across": across,
        "confident_first": confident_first,
        "confident_second": confident_second,
    }

    def loss(student, teacher, batch):
        pairs = two_views(student, teacher, batch, standardize=standardize)
        losses = crld_loss(*pairs, **options)
        return losses + labels * cross_entropy(batch.second.student.logits, batch.label)

    return stateless(loss, needs_second=True)


RECORD = Record(
    crld,
    "softened probabilities of two views, within and across views",
    "arXiv 2412.16493",
    needs_labels=True,
)
