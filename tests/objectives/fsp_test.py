import jax
import jax.numpy as jnp
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import fsp
from tests import golden
from tests.objectives import golden_maps


def test_the_stage_loss_equals_the_golden_file():
    # FSP reads the stem too, so the first map replaces it.
    def outputs(maps):
        return golden_maps.outputs(maps)._replace(maps=tuple(maps))

    golden_maps.check_golden_stage(objectives.create("fsp"), golden.load("fsp"), outputs)


def test_different_channels_and_rates_out_of_range_are_refused():
    student, teacher = (golden_maps.outputs([jnp.ones((2, 4, 4, n))]) for n in (3, 5))
    with pytest.raises(errors.InputError, match="taps are 4x4x1 4x4x3, the teacher's 4x4x1 4x4x5"):
        objectives.create("fsp").init(jax.random.key(0), student, teacher)
    with pytest.raises(errors.InputError, match="compares two or more maps"):
        fsp.fsp_loss(student.maps, teacher.maps)
    with pytest.raises(errors.InputError, match="learning_rate is -1"):
        objectives.create("fsp", learning_rate=-1.0)
