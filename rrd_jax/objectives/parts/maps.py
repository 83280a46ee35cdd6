"""Feature maps of two networks: which are compared with which, and where they are strong."""

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
    """Where a map is strong: [B, H, W, C] to [B, HW] of length 1, the mean over C of |x|^power."""
    mean = jnp.mean(jnp.abs(x.astype(jnp.float32)) ** power, axis=-1)
    return unit(mean.reshape(len(x), -1))


def pair_taps(
    student: Sequence[Shape], teacher: Sequence[Shape], *, equal_channels: bool = False
) -> tuple[tuple[int, int], ...]:
    """Which of two networks' taps are compared.

    As many taps on both sides are paired by their position, as is published. Otherwise those of
    the same height and width are, from the last one on; the others are left out.

    Args:
      student: shapes [B, H, W, channels] in the order of the network.
      teacher: the same.
      equal_channels: whether paired taps must have as many channels.

    Returns:
      Index pairs (student's, teacher's), in the order of the network.

    Raises:
      InputError: nothing can be paired, or a pair's channels differ.
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
        raise errors.InputError(f"no taps have the same height and width: {listed}")
    if equal_channels and any(student[i][-1] != teacher[j][-1] for i, j in pairs):
        raise errors.InputError(f"this objective compares channel with channel: {listed}")
    return tuple(pairs)


def paired(student: Maps, teacher: Maps, **options: Any) -> list[tuple[Any, Any]]:
    """The maps [B, H, W, channels], or their shapes, that `pair_taps` puts together."""
    shapes = [[tap.shape for tap in taps] for taps in (student, teacher)]
    pairs = pair_taps(*shapes, **options)
    return [(student[i], teacher[j]) for i, j in pairs]


def after_stem(student: Any, teacher: Any, **options: Any) -> list[tuple[Any, Any]]:
    """The pairs of maps behind the stem, of two networks' Outputs; options as `pair_taps`'."""
    return paired(*stage_maps(student, teacher), **options)


def before_relu(student: Any, teacher: Any) -> list[tuple[Any, Any]]:
    """As `after_stem`, of the maps before their last ReLU."""
    return paired(*stage_maps(student, teacher, "preactivations"))


def stage_maps(student: Any, teacher: Any, part: str = "maps") -> tuple[Maps, Maps]:
    """The maps behind the stem, of two networks' Outputs.

    Raises:
      InputError: one of them has a stem's map alone.
    """
    return _but_first("student", getattr(student, part)), _but_first(
        "teacher", getattr(teacher, part)
    )


def _but_first(network: str, maps: Maps) -> Maps:
    if len(maps) == 1:
        raise errors.InputError(
            f"the {network}'s network returns one map, which counts as its stem's and is left out:"
            " return the maps of its stages too"
        )
    return maps[1:]


def over_taps(
    loss: Callable[[Maps, Maps], jax.Array], *, equal_channels: bool = False
) -> Objective:
    """An objective without parameters over the pairs of maps behind the stem.

    Args:
      loss: (student's maps, teacher's maps) -> [B].
      equal_channels: whether paired maps must have as many channels.
    """

    def pairs(student, teacher):
        return after_stem(student, teacher, equal_channels=equal_channels)

    def init(key, student, teacher):
        del key
        pairs(student, teacher)  # raises an InputError where nothing fits
        return ObjectiveState()

    def loss_of_pairs(state, student, teacher, batch):
        del batch
        return loss(*zip(*pairs(student, teacher), strict=True)), state.memory

    return Objective(init, loss_of_pairs, taps=pairs)


def _sizes(taps: Sequence[Shape]) -> str:
    return " ".join("x".join(map(str, tap[1:])) for tap in taps) or "none"
