import jax
import jax.numpy as jnp
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import (
    fsp,
)
from tests import golden
from tests.objectives import adapted


def test_golden_stage_loss():
    def outputs(maps):  # fsp reads the stem too
        return adapted.outputs(maps)._replace(maps=tuple(maps))

    adapted.check_only_before(objectives.create("fsp"), golden.load("fsp"), outputs)


def test_other_channels_and_rates_out_of_range_are_refused():
    student, teacher = (adapted.outputs([jnp.ones((2, 4, 4, n))]) for n in (3, 5))
    with pytest.raises(errors.InputError, match="taps are 4x4x1 4x4x3, the teacher's 4x4x1 4x4x5"):
        objectives.create("fsp").init(jax.random.key(0), student, teacher)
    with pytest.raises(errors.InputError, match="compares two or more maps"):
        fsp.fsp_loss(student.maps, teacher.maps)
    with pytest.raises(errors.InputError, match="learning_rate is -1"):
        objectives.create("fsp", learning_rate=-1.0)
