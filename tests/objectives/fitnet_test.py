import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import ObjectiveState
from rrd_jax.objectives.parts import (
    adapters,
)
from tests import golden
from tests.objectives import adapted, batches


@pytest.mark.parametrize("name", ["down", "same", "up", "valid"])
def test_golden_fitnet(name):
    _check_fitnet(golden.load(f"fitnet_{name}"))


def test_golden_fitnet_with_a_pooled_teacher():
    _check_fitnet(golden.load("imagenet_fitnet_pool"))


def _check_fitnet(file):
    student, teacher = adapted.nhwc(file["in/f_s"]), adapted.nhwc(file["in/f_t"])
    layers = adapters.regressor(student.shape, teacher.shape)
    names = adapted.layer_names(layers, ["reg.conv"], ["reg.bn"])
    params = adapted.read(file, layers, names)
    objective = objectives.create("fitnet", tap=1)

    def loss(params, student):
        own, other = adapted.outputs([student]), adapted.outputs([teacher])
        return objective.loss(ObjectiveState(params), own, other, batches.NO_BATCH)[0]

    value, (of_params, of_student) = adapted.jitted(loss)(params, student)
    adapted.check(value, file["out/loss"])
    gradients = adapted.torch_names(of_params, layers, names)
    gradients["in/f_s"] = np.transpose(of_student, (0, 3, 1, 2))
    adapted.check_gradients(file, gradients)
    adapted.check(
        jax.jit(adapters.apply, static_argnums=0)(layers, params, student),
        golden.to_nhwc(file["out/reg_out"]),
    )
    adapted.check_running(file, layers, params, names, student)
    fresh = jax.eval_shape(
        objective.init, jax.random.key(0), adapted.outputs([student]), adapted.outputs([teacher])
    )
    assert jax.tree.map(jnp.shape, fresh.params) == jax.tree.map(jnp.shape, params)


def test_fitnet_refuses_a_tap_that_is_not_there():
    outputs = adapted.outputs([jnp.ones((2, 4, 4, 3))])
    with pytest.raises(errors.InputError, match="tap is 2, but the networks share only 2 taps"):
        objectives.create("fitnet").init(jax.random.key(0), outputs, outputs)


def test_a_negative_tap_is_named():
    with pytest.raises(errors.InputError, match="tap is -1"):
        objectives.create("fitnet", tap=-1)
