"""Objectives that put the teacher's classifier behind the student's features."""

from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives import adapters, features, linear
from rrd_jax.objectives.adapters import Layer
from rrd_jax.objectives.base import Objective, ObjectiveState

Head = dict[str, jax.Array]


def classify(head: Head, embedding: jax.Array) -> jax.Array:
    """embedding @ kernel + bias: [B, D] to [B, C] in float32; the head is constant."""
    return linear.apply(jax.lax.stop_gradient(head), embedding)


def srrl_loss(adapted: jax.Array, embedding: jax.Array, logits: jax.Array, head: Head) -> jax.Array:
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
    judged = classify(head, adapted)
    return features.mean_square(adapted, embedding) + features.mean_square(judged, logits)


def srrl() -> Objective:
    """SRRL with a linear layer, batch norm and ReLU behind the student's embedding.

    See `srrl_loss`. What it trains is not used at test time.
    """

    def init(key, student, teacher):
        _check_head("srrl", teacher)
        layers = (Layer(teacher.embedding.shape[-1]),)
        return ObjectiveState(params=adapters.init(key, layers, student.embedding.shape[-1]))

    def loss(state, student, teacher, batch):
        del batch
        layers = (Layer(teacher.embedding.shape[-1]),)
        adapted = adapters.apply_rows(layers, state.params, student.embedding)
        return srrl_loss(adapted, teacher.embedding, teacher.logits, teacher.head), state.memory

    return Objective(init, loss, needs_maps=False)


def simkd_loss(transferred: jax.Array, teacher: jax.Array) -> jax.Array:
    """SimKD: the mean square of transferred - teacher.

    Args:
      transferred: [B, H, W, C], of the student's last map.
      teacher: [B, H', W', C], the last map, constant for gradients, pooled to [H, W].

    Returns:
      [B] losses >= 0.

    References:
      Chen et al., arXiv 2203.14001.
    """
    return features.mean_square(transferred, adapters.pool(teacher, *transferred.shape[1:3]))


def simkd(*, factor: int = 2) -> Objective:
    """SimKD: a projector of the student's last map, and behind it the teacher's own classifier.

    Nothing else is meant to be learned: the weights of ce and kd are 0. Evaluation and export must
    use `predict`: the student's own classifier stays as it began. The projector is a 1x1, a 3x3
    and a 1x1 convolution, each with batch norm and ReLU; its running statistics are the memory.
    The teacher's map is the one that its pooling sees, so after its last ReLU, in a
    wide residual network too.

    Args:
      factor: how many times narrower than the teacher's map the projector is inside.

    Raises:
      InputError: a factor that is not positive; in `init`, a teacher whose classifier does not
        read its last map, averaged, or whose weights were not given.
    """
    errors.check_positive(factor=factor)

    def layers(channels):
        inside = max(1, channels // factor)
        return Layer(inside), Layer(inside, (3, 3), padding=1), Layer(channels)

    def init(key, student, teacher):
        _check_head("simkd", teacher)
        if isinstance(teacher.head["kernel"], jax.ShapeDtypeStruct):
            raise errors.InputError(
                "simkd keeps the teacher's classifier, so the teacher's weights must be there when"
                " the state is created"
            )
        own, other = student.maps[-1].shape, teacher.maps[-1].shape
        wanted = teacher.head["kernel"].shape[0]
        if other[-1] != wanted:
            raise errors.InputError(
                f"simkd needs a teacher whose classifier reads its last map; this one reads"
                f" {wanted} features, but that map has {other[-1]} channels"
            )
        pools = [
            jnp.asarray(adapters.averages(size, min(size, target)))
            for size, target in zip(own[1:3], other[1:3], strict=True)
        ]
        return ObjectiveState(
            params=adapters.init(key, layers(wanted), own[-1]),
            frozen={"head": teacher.head, "rows": pools[0], "columns": pools[1]},
            memory=adapters.init_running(layers(wanted)),
        )

    def pooled(state, student):
        return adapters.blend(student.maps[-1], state.frozen["rows"], state.frozen["columns"])

    def loss(state, student, teacher, batch):
        del batch
        target = teacher.maps[-1]
        if teacher.preactivations:
            target = jax.nn.relu(teacher.preactivations[-1])
        own = layers(target.shape[-1])
        x, memory = adapters.update(own, state.params, state.memory, pooled(state, student))
        return simkd_loss(x, target), memory

    def predict(state, student):
        head = state.frozen["head"]
        own = layers(head["kernel"].shape[0])
        x = adapters.infer(own, state.params, state.memory, pooled(state, student))
        return classify(head, jnp.mean(x, axis=(1, 2)))

    return Objective(init, loss, predict=predict)


def _check_head(name: str, teacher: Any) -> None:
    if not teacher.head:
        raise errors.InputError(f"{name} needs a teacher whose network reports its classifier")
