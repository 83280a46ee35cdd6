"""Scale-decoupled distillation (arXiv 2403.13512)."""

from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors, functional
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.dkd import dkd_loss
from rrd_jax.objectives.kd import kd_loss
from rrd_jax.objectives.parts.checks import check_labels, check_weights
from rrd_jax.objectives.parts.logits import mixed_loss
from rrd_jax.objectives.parts.pooling import pool

_LOSSES = ("kd", "dkd")


def sdd_loss(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array,
    *,
    loss: str = "kd",
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> jax.Array:
    """Computes the distillation of the logits of each region of an image.

        loss = 1 / R sum_r q_r l(z_s^r, z_t^r)

    with q_r 2 if the teacher's top class is the label in the whole image or in region r, but not in
    both, and 1 otherwise.

    Args:
      student: [R, B, C] logits of each region; region 0 is the whole image.
      teacher: [R, B, C] logits of each region, constant for gradients.
      labels: [B] int32, class ids.
      loss: l, "kd" or "dkd".
      temperature: softmax temperature, > 0.
      alpha: weight of the label's part of dkd, >= 0.
      beta: weight of the part of all other classes of dkd, >= 0.

    Returns:
      [B] losses in nats, >= 0.

    References:
      Wei et al., arXiv 2403.13512.
    """
    regions, batch, classes = student.shape
    check_labels(labels, student[0])
    pair = student.reshape(-1, classes), teacher.reshape(-1, classes)
    if loss == "kd":
        losses = kd_loss(*pair, temperature=temperature)
    else:
        repeated = jnp.tile(labels, regions)
        losses = dkd_loss(*pair, repeated, temperature=temperature, alpha=alpha, beta=beta)
    is_right = jnp.argmax(teacher, axis=-1) == labels[None]
    differs = is_right != is_right[:1]
    return jnp.mean(losses.reshape(regions, batch) * (1 + differs), axis=0)


def regions(patches: jax.Array, head: dict[str, jax.Array], scales: int) -> jax.Array:
    """Computes the logits of the regions of a map: of the whole map, its quarters and so on.

    Args:
      patches: [B, H, W, D], the map whose average the classifier reads.
      head: the classifier {"kernel": [D, C], "bias": [C]}.
      scales: number of scales; the finest has 2^(scales - 1) rows and columns, and averages of
        coarser scales are made from the finest.

    Returns:
      [1 + 4 + ... + 4^(scales - 1), B, C] float32, from the coarsest to the finest scale.
    """
    finest, rows = 2 ** (scales - 1), []
    cells = pool(patches, finest, finest)
    for scale in range(scales):
        averages = pool(cells, 2**scale, 2**scale)
        rows.append(averages.reshape(len(patches), -1, patches.shape[-1]))
    return functional.linear(jnp.concatenate(rows, axis=1), **head).swapaxes(0, 1)


def sdd(
    *,
    loss: str = "kd",
    scales: int = 3,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Objective:
    """Builds the distillation of logits at several scales; see `sdd_loss` and `regions`.

    Both networks classify the average of their last map; regions are classified by each network's
    own classifier, and the gradient reaches the student's. The published weights are those of loss
    "kd". With loss "dkd", they are ce 1 and sdd 1 with a warm-up of 20 epochs. Published for
    ImageNet: temperature 1, beta 0.5.

    Args:
      loss: loss of each region, "kd" or "dkd".
      scales: number of scales: 2 for the image and its quarters, published for vgg13 to vgg8 and
        resnet32x4 to resnet8x4; 3 also with sixteenths, for other pairs.
      temperature: softmax temperature, > 0.
      alpha: weight of the label's part of dkd, >= 0.
      beta: weight of the part of all other classes of dkd, >= 0.

    Raises:
      InputError: an option is unknown or out of range; in `init`, a network's classifier does not
        read the average of its last map.
    """
    errors.lookup("loss", loss, dict.fromkeys(_LOSSES))
    errors.check_counts(scales=scales)
    if scales > 5:
        raise errors.InputError(f"scales is {scales}, but must be at most 5")
    errors.check_positive(temperature=temperature)
    check_weights(alpha=alpha, beta=beta)
    options = {"loss": loss, "temperature": temperature, "alpha": alpha, "beta": beta}

    def init(key, student, teacher):
        del key
        _check("student", student)
        _check("teacher", teacher)
        return ObjectiveState()

    def total(state, student, teacher, batch):
        teacher_logits = regions(teacher.patches, jax.lax.stop_gradient(teacher.head), scales)
        pair = regions(student.patches, student.head, scales), teacher_logits
        return mixed_loss(lambda labels: sdd_loss(*pair, labels, **options), batch), state.memory

    return Objective(init, total, needs_maps=False, needs_patches=True)


def _check(network: str, outputs: Any) -> None:
    features, channels = outputs.head["kernel"].shape[0], outputs.patches.shape[-1]
    if features != channels:
        raise errors.InputError(
            f"sdd classifies regions of the last map, but the {network}'s classifier reads"
            f" {features} features, and the map has {channels} channels; choose another {network}"
            " or objective"
        )


RECORD = Record(
    sdd,
    "probabilities of the image and of its regions",
    "arXiv 2403.13512",
    alone={"ce": 0.1, "sdd": 0.9},
    needs_labels=True,
)
