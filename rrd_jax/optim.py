"""Optax transformations and schedules, from numbers."""

from collections.abc import Sequence

import jax
import optax

from rrd_jax import errors


def step_schedule(
    learning_rate: float, boundaries: Sequence[int], decay: float = 0.1
) -> optax.Schedule:
    """The schedule learning_rate * decay^n, with n the number of boundaries reached.

    Args:
      learning_rate: before the first boundary.
      boundaries: 0-based indices of the first slower steps, in any order.
      decay: factor at each boundary.

    Raises:
      InputError: learning_rate or decay is not above 0.
    """
    errors.check_positive(learning_rate=learning_rate, decay=decay)
    scales: dict[int, float] = {}
    for boundary in boundaries:  # a short run can reach two at the same step
        scales[int(boundary)] = scales.get(int(boundary), 1.0) * decay
    return optax.piecewise_constant_schedule(learning_rate, scales)


def boundaries(milestones: Sequence[float], epochs: int, steps_per_epoch: int) -> list[int]:
    """The steps at which epochs end, for milestones as fractions of the run.

    (0.625, 0.75, 0.875) of 240 epochs are the literature's 150, 180 and 210: epochs 151, 181 and
    211 (counted from 1) are the first slower ones.

    Raises:
      InputError: a milestone is not in (0, 1].
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
    """PyTorch's SGD: weight decay is added to the gradient, then momentum, without Nesterov.

    Args:
      schedule: learning rate by step.
      momentum: in [0, 1).
      weight_decay: factor of the parameters that are added to their gradient, 0 or above.
      clip_norm: greatest length of the gradient of all parameters together, before weight decay
        is added, as in PyTorch's clip_grad_norm_; 0 for no clipping.

    Raises:
      InputError: a number is out of its range.
    """
    bounds = (
        ("momentum", momentum, 1),
        ("weight_decay", weight_decay, 1e9),
        ("clip_norm", clip_norm, 1e9),
    )
    for name, value, end in bounds:
        if not 0 <= value < end:
            raise errors.InputError(f"optimizer.{name} is {value}, but must be in [0, {end:g})")
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    return optax.chain(
        *clip,
        optax.add_decayed_weights(weight_decay),
        optax.sgd(schedule, momentum=momentum),
    )


def all_but(
    transformation: optax.GradientTransformation, frozen: Sequence[str]
) -> optax.GradientTransformation:
    """The same transformation, but for the parameters at and below a path, which never move.

    Args:
      transformation: of all other parameters.
      frozen: keys from the root of the parameters to what is frozen.
    """

    def labels(params):
        def label(path, leaf):
            del leaf
            keys = [entry.key for entry in path]
            return "stays" if keys[: len(frozen)] == list(frozen) else "moves"

        return jax.tree_util.tree_map_with_path(label, params)

    # Checkpoints hold these two labels.
    return optax.partition({"moves": transformation, "stays": optax.set_to_zero()}, labels)
