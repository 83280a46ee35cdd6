"""Heterogeneous knowledge distillation by modeling information flow (arXiv 2005.00727)."""

import jax
import jax.numpy as jnp

from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts.arithmetic import matmul
from rrd_jax.objectives.parts.checks import as_float32_batches, check_shares, check_weights
from rrd_jax.objectives.parts.maps import after_stem
from rrd_jax.objectives.pkt import cosine_shares

_EPSILON = 1e-6


def pkth_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the divergence of similarities within the batch, by two kernels.

        loss_i = sum over kernels of mean_j (p_t - p_s) (log p_t - log p_s)

    with p the rows of a kernel, scaled to sum 1: (cos(x_i, x_j) + 1) / 2, and 1 / (1 + d) for the
    Euclidean distance d.

    Args:
      student: [B, ...] features.
      teacher: [B, ...] features, constant for gradients; only B must agree.

    Returns:
      [B] losses >= 0.

    References:
      Passalis et al., arXiv 2005.00727.
    """
    student, teacher = as_float32_batches(student, teacher)
    rows = [x.reshape(len(x), -1) for x in (student, teacher)]
    total = 0.0
    for shares in (cosine_shares, _distance_shares):
        p_s, p_t = (jnp.maximum(shares(x), _EPSILON**2) for x in rows)
        total += jnp.mean((p_t - p_s) * (jnp.log(p_t) - jnp.log(p_s)), axis=-1)
    return total


def _distance_shares(x: jax.Array) -> jax.Array:
    sizes = jnp.sum(jnp.square(x), axis=-1)
    square = jnp.maximum(sizes[:, None] + sizes[None] - 2 * matmul(x, x.T), 0)
    # Rounding would give an image a distance to itself.
    square = square * (1 - jnp.eye(len(x)))
    shares = 1 / (1 + jnp.sqrt(square + _EPSILON))
    return shares / jnp.sum(shares, axis=-1, keepdims=True)


def pkth(
    *, weight_maps: float = 100.0, decay: float = 0.7, steps_per_epoch: int | None = None
) -> Objective:
    """Builds the divergence of similarities of the embeddings and of all maps after the stem.

    See `pkth_loss`. The maps' weight falls every epoch, so that the first epochs train the early
    layers. In the paper, there are no labels (set the weight of ce to 0), the optimizer is Adam
    with rate 1e-3 over 50 epochs, and the teacher is distilled to an auxiliary teacher of the
    student's depth first, in a run of its own.

    Args:
      weight_maps: weight of each map in the first epoch, relative to the embedding's, >= 0.
      decay: factor of the maps' weight after each epoch, in [0, 1].
      steps_per_epoch: number of batches of an epoch.

    Raises:
      InputError: an option is out of range.
    """
    check_weights(weight_maps=weight_maps)
    check_shares(decay=decay)

    def init(key, student, teacher):
        del key
        after_stem(student, teacher)
        return ObjectiveState(memory={"steps": jnp.int32(0)})

    def loss(state, student, teacher, batch):
        del batch
        steps = state.memory["steps"]
        weight = weight_maps * jnp.float32(decay) ** (steps // (steps_per_epoch or 1))
        losses = pkth_loss(student.embedding, teacher.embedding)
        for pair in after_stem(student, teacher):
            losses += weight * pkth_loss(*pair)
        return losses, {"steps": steps + 1}

    return Objective(init, loss, taps=after_stem)


RECORD = Record(
    pkth,
    "similarities of embeddings and maps, by two kernels",
    "arXiv 2005.00727",
    verified=False,
    needs_classes=False,
    filled_in=("steps_per_epoch",),
)
