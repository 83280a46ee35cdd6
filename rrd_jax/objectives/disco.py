"""DisCo: contrastive distillation of sentence embeddings (arXiv 2112.05638), for any embeddings."""

import math

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import memory as memories
from rrd_jax.objectives.parts import projections
from rrd_jax.objectives.parts.arithmetic import matmul, unit
from rrd_jax.objectives.parts.checks import as_matching_float32

_ROWS = 65_536


def disco_loss(
    student: jax.Array, teacher: jax.Array, rows: jax.Array, *, scale: jax.Array | float
) -> jax.Array:
    """Computes the cross-entropy of picking an image's teacher embedding among all keys.

        loss_i = - log softmax_j(scale s_i . k_j)[i],  k = [teacher; rows]

    Args:
      student: [B, D] embeddings of length 1.
      teacher: [B, D] embeddings of length 1, constant for gradients.
      rows: [K, D] embeddings of earlier images, constant for gradients.
      scale: factor of the similarities, the inverse of a temperature.

    Returns:
      [B] losses in nats, > 0.

    References:
      Wu et al., arXiv 2112.05638.
    """
    student, teacher = as_matching_float32(student, teacher)
    batch = scale * matmul(student, teacher.T)
    earlier = scale * matmul(student, jax.lax.stop_gradient(rows).T)
    # The keys are not concatenated, because the rows may be sharded over devices.
    total = jnp.logaddexp(jax.nn.logsumexp(batch, axis=-1), jax.nn.logsumexp(earlier, axis=-1))
    return total - jnp.diagonal(batch)


def disco(*, temperature: float = 0.05, queue_size: int | str = "auto") -> Objective:
    """Builds contrastive distillation with the batch and a queue of teacher embeddings as keys.

    See `disco_loss`. A trained linear layer maps the student's embedding to the teacher's
    dimension, and the logarithm of the scale is trained too. The batch enters the queue after the
    comparison. The initial temperature could not be read in the paper.

    Args:
      temperature: initial temperature, the inverse of the scale, > 0.
      queue_size: number of memory rows K >= 1. "auto": 65,536, but in a run at most the rows that
        one epoch pushes.

    Raises:
      InputError: a value is out of range.
    """
    errors.check_positive(temperature=temperature)
    size = memories.rows(queue_size, _ROWS)

    def init(key, student, teacher):
        layer_key, queue_key = jax.random.split(key)
        features, dim = (outputs.embedding.shape[-1] for outputs in (student, teacher))
        layer = projections.init(layer_key, features, dim)
        params = {"student": layer, "scale": jnp.full(1, -math.log(temperature), jnp.float32)}
        return ObjectiveState(params, memory=memories.init_queue(queue_key, size, dim))

    def loss(state, student, teacher, batch):
        del batch
        embedding = projections.project(state.params["student"], student.embedding)
        target = unit(teacher.embedding.astype(jnp.float32))
        scale = jnp.exp(state.params["scale"][0])
        losses = disco_loss(embedding, target, state.memory.rows, scale=scale)
        return losses, memories.push(state.memory, target)

    def head(state):
        return state.params["student"], True

    return Objective(init, loss, needs_maps=False, head=head, needs_index=False)


RECORD = Record(
    disco,
    "embeddings, by contrast with the batch and a memory",
    "arXiv 2112.05638",
    verified=False,
    needs_classes=False,
    rows=lambda options: _ROWS,
)
