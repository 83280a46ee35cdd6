import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives import sp
from tests import golden
from tests.objectives import batches


@pytest.mark.parametrize("name", ["sp", "imagenet_sp"])
def test_sp_equals_the_golden_file_for_channels_last_maps(name):
    file = golden.load(name)
    student, teacher = (jnp.asarray(golden.to_nhwc(file[f"in/{x}"])) for x in ("s0", "t0"))
    objective = objectives.create("sp")

    def loss(student):
        outputs = (Outputs(jnp.zeros(()), jnp.zeros(()), (x,)) for x in (student, teacher))
        return jnp.mean(objective.loss(objectives.ObjectiveState(), *outputs, batches.NO_BATCH)[0])

    value, gradient = jax.jit(jax.value_and_grad(loss))(student)
    assert golden.relative(value, file["out/loss"]) < 1e-5
    assert golden.relative(gradient, golden.to_nhwc(file["grad/in/s0"])) < 1e-5


def test_sp_does_not_depend_on_the_order_of_axes_and_pixels():
    rng = np.random.default_rng(0)
    student, teacher = (jnp.asarray(rng.standard_normal((5, 3, 4, c))) for c in (6, 7))
    actual = sp.sp_loss(jnp.moveaxis(student, -1, 1), teacher[:, ::-1])
    np.testing.assert_allclose(actual, sp.sp_loss(student, teacher), rtol=1e-5)
