"""FSP: flow of the solution procedure (CVPR 2017)."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts.arithmetic import mean_square
from rrd_jax.objectives.parts.maps import Maps, paired
from rrd_jax.objectives.parts.pooling import pool_larger
from rrd_jax.objectives.parts.stages import stage_only


def fsp_loss(student: Maps, teacher: Maps) -> jax.Array:
    """Computes FSP: the distance of channel products of consecutive taps.

        G_i[c, d] = mean_hw F_{i+1}[h, w, c] F_i[h, w, d]
        loss = sum over i of mean_cd (G_i(student) - G_i(teacher))^2

    Args:
      student: at least two maps [B, H, W, channels]; the larger of two consecutive maps is pooled.
      teacher: the same number of maps with the same channels, constant for gradients.

    Returns:
      [B] losses >= 0.

    Raises:
      InputError: there are fewer than two maps, or the channels differ.

    References:
      Yim et al., CVPR 2017.
    """
    channels = [[x.shape[-1] for x in maps] for maps in (student, teacher)]
    if len(student) < 2 or channels[0] != channels[1]:
        raise errors.InputError(
            f"fsp compares two or more maps with equal channels, but channels are {channels[0]} of"
            f" the student and {channels[1]} of the teacher; choose networks with equal channels"
        )

    def flows(maps):
        for bottom, top in itertools.pairwise(maps):
            bottom, top = pool_larger(bottom, top)
            product = jnp.einsum("bhwc,bhwd->bcd", top, bottom, precision="highest")
            yield product / (top.shape[1] * top.shape[2])

    both = zip(flows(student), flows(teacher), strict=True)
    return sum(mean_square(s, t) for s, t in both)


def fsp(*, epochs: int = 30, learning_rate: float | None = None) -> Objective:
    """Builds FSP on all taps, including the stem's; see `fsp_loss`.

    FSP trains the student in a stage before distillation; its weight is not used, and its later
    loss is 0. Both networks must have the same channels.

    Args:
      epochs: number of epochs of the stage.
      learning_rate: learning rate of the stage; None for the run's.
    """

    def init(key, student, teacher):
        del key
        # Raises an InputError if channels differ.
        _pairs(student, teacher)
        return ObjectiveState()

    def stage_loss(state, student, teacher, batch):
        del batch
        return fsp_loss(*zip(*_pairs(student, teacher), strict=True)), state.memory

    return stage_only(init, _pairs, stage_loss, epochs, learning_rate)


def _pairs(student: Any, teacher: Any) -> list[tuple[Any, Any]]:
    return paired(student.maps, teacher.maps, equal_channels=True)


RECORD = Record(
    fsp,
    "products of consecutive maps (equal channels)",
    "CVPR 2017",
    weight=50.0,
    needs_classes=False,
    # After the stage, the student learns from labels only.
    needs_labels=True,
)
