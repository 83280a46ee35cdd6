"""Numbers to an Optax transformation and its schedule."""

from collections.abc import Sequence

import jax
import optax

from rrd_jax import errors


def step_schedule(
    learning_rate: float, boundaries: Sequence[int], decay: float = 0.1
) -> optax.Schedule:
    """learning_rate * decay^n, with n the number of boundaries reached.

    Args:
      learning_rate: before the first boundary.
      boundaries: steps made (0-based index of the first slower step), in any order.
      decay: factor at each boundary.
    """
    errors.check_positive(learning_rate=learning_rate, decay=decay)
    scales: dict[int, float] = {}
    for boundary in boundaries:  # a short run can reach two at the same step
        scales[int(boundary)] = scales.get(int(boundary), 1.0) * decay
    return optax.piecewise_constant_schedule(learning_rate, scales)


def boundaries(milestones: Sequence[float], epochs: int, steps_per_epoch: int) -> list[int]:
    """Milestones as fractions of the run, to the steps that end those epochs.

    (0.625, 0.75, 0.875) of 240 epochs are the field's 150, 180 and 210: epochs 151, 181 and 211
    (counted from 1) are the first slower ones.
    """
    for milestone in milestones:
        if not 0 < milestone <= 1:
            raise errors.InputError(
                f"optimizer.milestones has {milestone}; they are fractions of the run, in (0, 1]"
            )
    return [round(milestone * epochs) * steps_per_epoch for milestone in milestones]


def sgd(
    schedule: optax.Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """PyTorch's SGD: decay joins the gradient of every parameter, then momentum, no Nesterov.

    Args:
      schedule: learning rate by step.
      momentum: in [0, 1).
      weight_decay: 0 or above.
      clip_norm: above 0, the gradient of all parameters together is shortened to this length
        before decay joins it, as by PyTorch's clip_grad_norm_; 0 for no clipping.
    """
    bounds = (("momentum", momentum, 1), ("weight_decay", weight_decay, 1e9))
    for name, value, end in (*bounds, ("clip_norm", clip_norm, 1e9)):
        if not 0 <= value < end:
            raise errors.InputError(f"optimizer.{name} is {value}, but must be in [0, {end:g})")
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    return optax.chain(
        *clip,
        optax.add_decayed_weights(weight_decay),
        optax.sgd(schedule, momentum=momentum),
    )


def all_but(
    transformation: optax.GradientTransformation, stays: Sequence[str]
) -> optax.GradientTransformation:
    """The same, but parameters at and below the path `stays` in their tree never move."""

    def labels(params):
        def label(path, leaf):
            del leaf
            return "stays" if [key.key for key in path][: len(stays)] == list(stays) else "moves"

        return jax.tree_util.tree_map_with_path(label, params)

    return optax.partition({"moves": transformation, "stays": optax.set_to_zero()}, labels)
