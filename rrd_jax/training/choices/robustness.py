"""Choices for the robust evaluation of `--mode=eval`."""

import dataclasses

from rrd_jax.settings import field, kinds

EVALUATIONS = ("calibration",)


@dataclasses.dataclass(frozen=True)
class RobustnessChoice:
    """The evaluations of student and teacher beyond accuracy, in `--mode=eval`.

    Attributes:
      names: Further evaluations of --mode=eval, separated by commas; () for none. calibration:
        expected calibration error, negative log-likelihood and Brier score. Training ignores this
        field.
    """

    names: tuple[str, ...] = field("eval.robust", (), kinds.Names(EVALUATIONS), changeable=True)
