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
    """Softmax regression representation learning: the teacher's classifier judges the student.

        loss = mean_d (g - f_t)^2 + mean_c (head(g) - z_t)^2

    Args:
      adapted: [B, D] g, the student's embedding in the teacher's space.
      embedding: [B, D] f_t of the teacher, constant for gradients.
      logits: [B, C] z_t of the teacher, constant for gradients.
      head: {"kernel": [D, C], "bias": [C]} of the teacher, constant for gradients.

    Returns:
      [B] losses >= 0.

    References:
      Yang et al., ICLR 2021 (openreview ZzwDy_wiWv).
    """
    judged = functional.linear(adapted, **jax.lax.stop_gradient(head))
    return mean_square(adapted, embedding) + mean_square(judged, logits)


def srrl() -> Objective:
    """SRRL with a linear layer, batch norm and ReLU behind the student's embedding.

    See `srrl_loss`. What it trains is not used at test time.
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
    "embedding, and what the teacher's classifier says of it",
    "openreview ZzwDy_wiWv",
    company={"kd": 1.0},
)
