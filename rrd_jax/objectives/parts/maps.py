"""Pairing of two networks' feature maps, and spatial attention."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState
from rrd_jax.objectives.parts.arithmetic import unit

Maps = Sequence[jax.Array]
Shape = tuple[int, ...]


def strength(x: jax.Array, power: float = 2) -> jax.Array:
    """Computes spatial attention: the mean over C of |x|^power, [B, H, W, C] to unit [B, HW]."""
    mean = jnp.mean(jnp.abs(x.astype(jnp.float32)) ** power, axis=-1)
    return unit(mean.reshape(len(x), -1))


def pair_taps(
    student: Sequence[Shape], teacher: Sequence[Shape], *, equal_channels: bool = False
) -> tuple[tuple[int, int], ...]:
    """Returns the pairs of taps of two networks that are compared.

    If both networks have the same number of taps, taps are paired by position, as published.
    Otherwise taps of equal height and width are paired, starting from the last; unpaired taps are
    ignored.

    Args:
      student: shapes [B, H, W, channels] of the student's taps, in network order.
      teacher: shapes of the teacher's taps, in network order.
      equal_channels: whether paired taps must have the same number of channels.

    Returns:
      Index pairs (student, teacher), in network order.

    Raises:
      InputError: no taps can be paired, or the channels of a pair differ.
    """
    listed = f"the student's taps are {_sizes(student)}, the teacher's {_sizes(teacher)}"
    if len(student) == len(teacher):
        pairs = [(i, i) for i in range(len(student))]
    else:
        pairs, i, j = [], len(student) - 1, len(teacher) - 1
        while i >= 0 and j >= 0:
            size_s, size_t = student[i][1:3], teacher[j][1:3]
            if size_s == size_t:
                pairs.insert(0, (i, j))
            i, j = i - (size_s <= size_t), j - (size_s >= size_t)
    if not pairs:
        raise errors.InputError(
            f"no taps have equal height and width: {listed}; choose other networks, or another"
            " objective"
        )
    if equal_channels and any(student[i][-1] != teacher[j][-1] for i, j in pairs):
        raise errors.InputError(
            f"the objective compares maps channel by channel: {listed}; choose networks with equal"
            " channels, or another objective"
        )
    return tuple(pairs)


def paired(student: Maps, teacher: Maps, **options: Any) -> list[tuple[Any, Any]]:
    """Returns pairs of maps [B, H, W, channels], or of shapes, as chosen by `pair_taps`."""
    shapes = [[tap.shape for tap in taps] for taps in (student, teacher)]
    pairs = pair_taps(*shapes, **options)
    return [(student[i], teacher[j]) for i, j in pairs]


def after_stem(student: Any, teacher: Any, **options: Any) -> list[tuple[Any, Any]]:
    """Returns pairs of the maps after the stem of two Outputs; options are those of `pair_taps`."""
    return paired(*stage_maps(student, teacher), **options)


def before_relu(student: Any, teacher: Any) -> list[tuple[Any, Any]]:
    """Returns pairs of maps like `after_stem`, taken before their last ReLU."""
    return paired(*stage_maps(student, teacher, "preactivations"))


def stage_maps(student: Any, teacher: Any, part: str = "maps") -> tuple[Maps, Maps]:
    """Returns the maps after the stem of two networks' Outputs.

    Raises:
      InputError: a network returns only one map, which is the stem's.
    """
    return _but_first("student", getattr(student, part)), _but_first(
        "teacher", getattr(teacher, part)
    )


def _but_first(network: str, maps: Maps) -> Maps:
    if len(maps) == 1:
        raise errors.InputError(
            f"the {network}'s network returns one map, which counts as the stem's and is not"
            " compared; return the maps of its stages too"
        )
    return maps[1:]


def over_taps(
    loss: Callable[[Maps, Maps], jax.Array], *, equal_channels: bool = False
) -> Objective:
    """Returns an objective without parameters on pairs of maps after the stem.

    Args:
      loss: function (student maps, teacher maps) -> [B].
      equal_channels: whether paired maps must have the same number of channels.
    """

    def pairs(student, teacher):
        return after_stem(student, teacher, equal_channels=equal_channels)

    def init(key, student, teacher):
        del key
        # Raises an InputError if no maps can be paired.
        pairs(student, teacher)
        return ObjectiveState()

    def loss_of_pairs(state, student, teacher, batch):
        del batch
        return loss(*zip(*pairs(student, teacher), strict=True)), state.memory

    return Objective(init, loss_of_pairs, taps=pairs)


def _sizes(taps: Sequence[Shape]) -> str:
    return " ".join("x".join(map(str, tap[1:])) for tap in taps) or "none"
