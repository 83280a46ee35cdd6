"""SimKD: the student takes the teacher's classifier (arXiv 2203.14001)."""

from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors, functional
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import adapters
from rrd_jax.objectives.parts.adapters import Layer
from rrd_jax.objectives.parts.arithmetic import mean_square
from rrd_jax.objectives.parts.pooling import averages, blend, pool


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
    return mean_square(transferred, pool(teacher, *transferred.shape[1:3]))


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
        _check_teacher(teacher)
        shape_s, shape_t = student.maps[-1].shape, teacher.maps[-1].shape
        stack = layers(shape_t[-1])
        rows, columns = (
            jnp.asarray(averages(size, min(size, target)))
            for size, target in zip(shape_s[1:3], shape_t[1:3], strict=True)
        )
        return ObjectiveState(
            params=adapters.init(key, stack, shape_s[-1]),
            frozen={"head": teacher.head, "rows": rows, "columns": columns},
            memory=adapters.init_running(stack),
        )

    def pooled(state, student):
        x, rows, columns = student.maps[-1], state.frozen["rows"], state.frozen["columns"]
        if x.shape[1:3] == (len(rows), len(columns)):
            return x.astype(jnp.float32)
        return blend(x, rows, columns)

    def loss(state, student, teacher, batch):
        del batch
        target = teacher.maps[-1]
        if teacher.preactivations:
            target = jax.nn.relu(teacher.preactivations[-1])
        stack = layers(target.shape[-1])
        x, memory = adapters.update(stack, state.params, state.memory, pooled(state, student))
        return simkd_loss(x, target), memory

    def predict(state, student):
        head = state.frozen["head"]
        stack = layers(head["kernel"].shape[0])
        x = adapters.infer(stack, state.params, state.memory, pooled(state, student))
        return functional.linear(jnp.mean(x, axis=(1, 2)), **jax.lax.stop_gradient(head))

    return Objective(init, loss, predict=predict)


def _check_teacher(teacher: Any) -> None:
    if isinstance(teacher.head["kernel"], jax.ShapeDtypeStruct):
        raise errors.InputError(
            "simkd keeps the teacher's classifier, so the teacher's weights must be there when"
            " the state is created"
        )
    features, channels = teacher.head["kernel"].shape[0], teacher.maps[-1].shape[-1]
    if channels != features:
        raise errors.InputError(
            f"simkd needs a teacher whose classifier reads its last map; this one reads"
            f" {features} features, but that map has {channels} channels"
        )


RECORD = Record(
    simkd,
    "last map; the teacher's classifier takes over",
    "arXiv 2203.14001",
    company={"ce": 0.0},  # the classifier is the teacher's
)
