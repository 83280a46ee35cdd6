"""FSP: the flow of solution procedure (CVPR 2017)."""

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
    """The flow of solution procedure: products of consecutive taps, channel by channel.

        G_i[c, d] = mean_hw F_{i+1}[h, w, c] F_i[h, w, d]
        loss = sum over i of mean_cd (G_i(student) - G_i(teacher))^2

    Args:
      student: two or more maps [B, H, W, channels]; the larger of two neighbours is pooled.
      teacher: as many, with the same channels, constant for gradients.

    Returns:
      [B] losses >= 0.

    Raises:
      InputError: channels differ.

    References:
      Yim et al., CVPR 2017.
    """
    channels = [[x.shape[-1] for x in maps] for maps in (student, teacher)]
    if len(student) < 2 or channels[0] != channels[1]:
        raise errors.InputError(
            f"fsp needs two or more maps of the same channels on both sides, not {channels[0]}"
            f" of the student and {channels[1]} of the teacher"
        )

    def flows(maps):
        for bottom, top in itertools.pairwise(maps):
            bottom, top = pool_larger(bottom, top)
            product = jnp.einsum("bhwc,bhwd->bcd", top, bottom, precision="highest")
            yield product / (top.shape[1] * top.shape[2])

    both = zip(flows(student), flows(teacher), strict=True)
    return sum(mean_square(s, t) for s, t in both)


def fsp(*, epochs: int = 30, learning_rate: float | None = None) -> Objective:
    """FSP over all taps, the stem's too; see `fsp_loss`.

    It trains in a stage before distillation, which has no weight; afterwards its loss is 0. The
    networks must have the same channels.

    Args:
      epochs: of the stage.
      learning_rate: of the stage; None is the run's.
    """

    def init(key, student, teacher):
        del key
        _pairs(student, teacher)  # raises an InputError where channels differ
        return ObjectiveState()

    def stage_loss(state, student, teacher, batch):
        del batch
        return fsp_loss(*zip(*_pairs(student, teacher), strict=True)), state.memory

    return stage_only(init, _pairs, stage_loss, epochs, learning_rate)


def _pairs(student: Any, teacher: Any) -> list[tuple[Any, Any]]:
    return paired(student.maps, teacher.maps, equal_channels=True)


RECORD = Record(
    fsp,
    "products of consecutive maps; equal channels",
    "CVPR 2017",
    weight=50.0,
    needs_classes=False,
    needs_labels=True,  # alone they teach the student once its stage is over
)
