"""SimKD: reuse of the teacher's classifier (arXiv 2203.14001)."""

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
    """Computes SimKD: the mean square of transferred - teacher.

    Args:
      transferred: [B, H, W, C], the student's last map after the projector.
      teacher: [B, H', W', C], the teacher's last map, constant for gradients, pooled to [H, W].

    Returns:
      [B] losses >= 0.

    References:
      Chen et al., arXiv 2203.14001.
    """
    return mean_square(transferred, pool(teacher, *transferred.shape[1:3]))


def simkd(*, factor: int = 2) -> Objective:
    """Builds SimKD: a projector of the student's last map, followed by the teacher's classifier.

    In the published method there is no other loss: the weights of ce and kd are 0. Evaluation and
    export must use `predict`, since the student's own classifier is not trained. The projector is a
    1x1, a 3x3 and a 1x1 convolution, each with batch norm and ReLU; its running statistics are the
    objective's memory. The teacher's map is the input of its pooling, after the last ReLU, also in
    a wide residual network.

    Args:
      factor: ratio of the teacher's channels to the hidden channels of the projector, > 0.

    Raises:
      InputError: the factor is not positive; in `init`, the teacher's classifier does not read the
        average of its last map, or the teacher has no weights.
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
            "simkd copies the teacher's classifier, but the teacher has no weights; pass the"
            " teacher's variables when the state is created"
        )
    features, channels = teacher.head["kernel"].shape[0], teacher.maps[-1].shape[-1]
    if channels != features:
        raise errors.InputError(
            f"simkd needs a teacher whose classifier reads its last map, but the classifier reads"
            f" {features} features, and the map has {channels} channels; choose another teacher or"
            " objective"
        )


RECORD = Record(
    simkd,
    "last maps (the student reuses the teacher's classifier)",
    "arXiv 2203.14001",
    # The classifier is the teacher's, so cross-entropy would not train it.
    company={"ce": 0.0},
)
