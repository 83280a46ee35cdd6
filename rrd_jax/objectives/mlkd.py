"""Multi-level logit distillation (CVPR 2023)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.kd import kd_loss
from rrd_jax.objectives.parts.arithmetic import matmul
from rrd_jax.objectives.parts.checks import as_matching_float32, check_weights
from rrd_jax.objectives.parts.logits import Views, cross_entropy, scores, two_views


def gram_losses(
    student: jax.Array, teacher: jax.Array, *, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Computes the distances of Gram matrices of probabilities P = softmax(z / T), [B, C].

        batch   = |P_t P_t' - P_s P_s'|^2 / B,  classes = |P_t' P_t - P_s' P_s|^2 / C

    Args:
      student: [B, C] logits.
      teacher: [B, C] logits, constant for gradients.
      temperature: softmax temperature T, > 0.

    Returns:
      (batch [], classes []), both >= 0; they grow with the batch.
    """
    student, teacher = as_matching_float32(student, teacher)
    p_s, p_t = (jax.nn.softmax(z / temperature) for z in (student, teacher))
    batch = jnp.sum(jnp.square(matmul(p_t, p_t.T) - matmul(p_s, p_s.T))) / len(p_s)
    classes = jnp.sum(jnp.square(matmul(p_t.T, p_t) - matmul(p_s.T, p_s))) / p_s.shape[-1]
    return batch, classes


def mlkd_loss(
    student: Views,
    teacher: Views,
    grams: tuple[jax.Array, jax.Array],
    *,
    temperatures: Sequence[float] = (4.0, 3.0, 5.0, 2.0, 6.0),
    reference: bool = False,
) -> jax.Array:
    """Computes distillation at several temperatures, of images, of the batch and of classes.

        loss = sum_T [l_T(s_1, t_1) / 2 + l_T(s_2, t_2) + batch_T / 2 + classes_T / 2]

    with l_T = `kd.kd_loss` at temperature T, and `gram_losses` of the first view. The factors 1/2
    are those of the published code, which multiplies means by masks of the less confident half.

    Args:
      student: the student's logits.
      teacher: the teacher's logits, constant for gradients.
      grams: the student's and the teacher's logits of the first view for `gram_losses`, which are
        not standardized.
      temperatures: softmax temperatures, each > 0.
      reference: whether the fourth and fifth temperatures compare the first view instead of the
        second, and shares of an odd number are rounded up, as in the published code.

    Returns:
      [B] losses >= 0; the parts of the batch and of classes are the same for all images.

    References:
      Jin et al., Multi-Level Logit Distillation, CVPR 2023.
    """
    count, classes = grams[0].shape
    # Half of an odd number is rounded up by the median of the published code.
    images_half, classes_half = (-(-n // 2) / n if reference else 0.5 for n in (count, classes))
    total = 0.0
    for i, temperature in enumerate(temperatures):
        first = kd_loss(student.first, teacher.first, temperature=temperature)
        is_first = reference and i in (3, 4)
        pair = (student.second, teacher.second)
        second = first if is_first else kd_loss(*pair, temperature=temperature)
        by_batch, by_class = gram_losses(*grams, temperature=temperature)
        total += images_half * (first + by_batch) + second + classes_half * by_class
    return total


def mlkd(
    *,
    temperatures: tuple = (4.0, 3.0, 5.0, 2.0, 6.0),
    distillation: float = 0.9,
    labels: float = 0.1,
    standardize: bool = False,
    reference: bool = False,
) -> Objective:
    """Builds multi-level distillation of two views; see `mlkd_loss`.

    The loss also contains the cross-entropy of the second view, with weight `labels`; that of the
    first view is the objective ce. Published for ImageNet: distillation and labels 0.5, ce 0.5, and
    1 as the first temperature. With logit standardization (arXiv 2403.01427): 2 as the first
    temperature and distillation 9, over 480 epochs.

    Args:
      temperatures: softmax temperatures, each > 0.
      distillation: weight of the distillation, >= 0.
      labels: weight of the cross-entropy of the second view, >= 0.
      standardize: whether logits are standardized over the classes before the divergence of single
        images; see `parts.logits.standardized`.
      reference: whether the loss has the oddities of the published code; see `mlkd_loss`.

    Raises:
      InputError: an option is out of range.
    """
    if not temperatures:
        raise errors.InputError("temperatures is empty, but must have at least one value")
    for temperature in temperatures:
        errors.check_positive(temperatures=temperature)
    check_weights(distillation=distillation, labels=labels)

    def loss(student, teacher, batch):
        pairs = two_views(student, teacher, batch, standardize=standardize)
        grams = scores(student.logits, teacher.logits, standardize=False)
        levels = mlkd_loss(*pairs, grams, temperatures=temperatures, reference=reference)
        target = cross_entropy(batch.second.student.logits, batch.label)
        return distillation * levels + labels * target

    return stateless(loss, needs_second=True)


RECORD = Record(
    mlkd,
    "softened probabilities of two views, and their Gram matrices",
    "CVPR 2023",
    alone={"ce": 0.1, "mlkd": 1.0},
    needs_labels=True,
)
