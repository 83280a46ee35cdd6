"""SRRL: softmax regression representation learning (openreview ZzwDy_wiWv)."""

import jax

from rrd_jax import functional
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import adapters
from rrd_jax.objectives.parts.adapters import Layer
from rrd_jax.objectives.parts.arithmetic import mean_square


def srrl_loss(
    adapted: jax.Array, embedding: jax.Array, logits: jax.Array, head: dict[str, jax.Array]
) -> jax.Array:
    """Computes SRRL: distances of features, and of the teacher's classifier applied to both.

        loss = mean_d (g - f_t)^2 + mean_c (head(g) - z_t)^2

    Args:
      adapted: [B, D] g, the student's embedding after the adapter.
      embedding: [B, D] f_t, the teacher's embedding, constant for gradients.
      logits: [B, C] z_t, the teacher's logits, constant for gradients.
      head: {"kernel": [D, C], "bias": [C]}, the teacher's classifier, constant for gradients.

    Returns:
      [B] losses >= 0.

    References:
      Yang et al., ICLR 2021 (openreview ZzwDy_wiWv).
    """
    student_logits = functional.linear(adapted, **jax.lax.stop_gradient(head))
    return mean_square(adapted, embedding) + mean_square(student_logits, logits)


def srrl() -> Objective:
    """Builds SRRL with an adapter of a linear layer, batch norm and ReLU; see `srrl_loss`.

    The adapter follows the student's embedding and is not used in evaluation.
    """

    def layers(teacher):
        return (Layer(teacher.embedding.shape[-1]),)

    def init(key, student, teacher):
        params = adapters.init(key, layers(teacher), student.embedding.shape[-1])
        return ObjectiveState(params=params)

    def loss(state, student, teacher, batch):
        del batch
        adapted = adapters.apply_rows(layers(teacher), state.params, student.embedding)
        return srrl_loss(adapted, teacher.embedding, teacher.logits, teacher.head), state.memory

    return Objective(init, loss, needs_maps=False)


RECORD = Record(
    srrl,
    "embeddings, and the teacher's classifier applied to both",
    "openreview ZzwDy_wiWv",
    company={"kd": 1.0},
)
