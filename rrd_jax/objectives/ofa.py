"""One-for-all distillation between architectures (arXiv 2310.19444)."""

from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors, functional
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.batch import Batch
from rrd_jax.objectives.parts import adapters
from rrd_jax.objectives.parts.adapters import Layer
from rrd_jax.objectives.parts.checks import as_matching_float32, check_labels
from rrd_jax.objectives.parts.maps import Maps


def ofa_loss(
    student: jax.Array, teacher: jax.Array, labels: jax.Array, *, power: float = 1.0
) -> jax.Array:
    """Computes the distillation of a teacher's probabilities, with emphasis on the label.

        loss = - sum_c ((p_t(c) + [c = y])^g - [c = y]) log p_s(c),  p = softmax(z)

    With g 1 the loss is the cross-entropy with the teacher's probabilities.

    Args:
      student: [B, C] logits.
      teacher: [B, C] logits, constant for gradients.
      labels: [B] int32, class ids y.
      power: exponent g, > 0.

    Returns:
      [B] losses.

    References:
      Hao et al., arXiv 2310.19444.
    """
    errors.check_positive(power=power)
    student, teacher = as_matching_float32(student, teacher)
    check_labels(labels, student)
    label = jax.nn.one_hot(labels, student.shape[-1])
    targets = (jax.nn.softmax(teacher) + label) ** power - label
    return -jnp.sum(targets * jax.nn.log_softmax(student), axis=-1)


def ofa(*, power: float = 1.0) -> Objective:
    """Builds the distillation of logits that are computed from each of the student's stages.

    The loss is the sum of `ofa_loss` over the student's logits and those of an exit after each
    stage. An exit is a stack of separable convolutions, one block per later stage, which halve the
    map and double the channels, then the average and a linear layer. For networks with four stages
    the exits are the published ones for convolutional students; other networks have fewer or more.
    Exits are not used in evaluation. The published code has label smoothing of 0.1 in ce.

    Args:
      power: exponent g, > 0; published: 1 for CIFAR-100, 1.5 for ResNet-18 from DeiT-T.

    Raises:
      InputError: the power is out of range; in `init`, the student returns no maps after the stem.
    """
    errors.check_positive(power=power)

    def init(key, student, teacher):
        params = {}
        width = _width(student, teacher)
        for i, stack in enumerate(_exits(student.maps, width)):
            stack_key, head_key = jax.random.split(jax.random.fold_in(key, i))
            shape = (width, student.logits.shape[-1])
            kernel = 0.02 * jax.random.truncated_normal(head_key, -2, 2, shape)
            params[f"exit{i}"] = {
                "stack": adapters.init(stack_key, stack, student.maps[i + 1].shape[-1]),
                "head": {"kernel": kernel, "bias": jnp.zeros(shape[1])},
            }
        return ObjectiveState(params)

    def loss(state, student, teacher, batch):
        labels = _labels(batch)
        losses = ofa_loss(student.logits, teacher.logits, labels, power=power)
        for i, stack in enumerate(_exits(student.maps, _width(student, teacher))):
            layers = state.params[f"exit{i}"]
            x = adapters.apply(stack, layers["stack"], student.maps[i + 1])
            logits = functional.linear(jnp.mean(x, axis=(1, 2)), **layers["head"])
            losses += ofa_loss(logits, teacher.logits, labels, power=power)
        return losses, state.memory

    return Objective(init, loss, needs_maps=False)


def _width(student: Any, teacher: Any) -> int:
    return max(outputs.embedding.shape[-1] for outputs in (student, teacher))


def _exits(maps: Maps, width: int) -> list[tuple[Layer, ...]]:
    """Returns the stack of each exit, for the maps after the stem."""
    stages = maps[1:]
    if not stages:
        raise errors.InputError(
            "ofa adds exits after the student's stages, but the student's network returns only the"
            " map of its stem; return the maps of its stages too"
        )
    stacks = []
    for i, x in enumerate(stages):
        channels, blocks, layers = x.shape[-1], len(stages) - 1 - i, []
        for block in range(blocks):
            features = width if block == blocks - 1 else 2 * channels
            layers += [_spatial(channels, stride=2), Layer(channels)]
            layers += [_spatial(channels, stride=1), Layer(features)]
            channels *= 2
        stacks.append(tuple(layers) or (Layer(width, bias=True, norm=False, slope=1.0),))
    return stacks


def _spatial(channels: int, *, stride: int) -> Layer:
    return Layer(channels, (3, 3), stride, 1, norm=False, slope=1.0, depthwise=True)


def _labels(batch: Batch) -> jax.Array:
    """Returns the labels [B]; of mixed images those with the larger share."""
    if batch.share is None:
        return batch.label
    return jnp.where(batch.share >= 0.5, batch.label, batch.other_label)


RECORD = Record(
    ofa,
    "probabilities after each of the student's stages",
    "arXiv 2310.19444",
    needs_labels=True,
)
