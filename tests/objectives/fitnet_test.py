import jax
import jax.numpy as jnp
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import ObjectiveState
from rrd_jax.objectives.parts import adapters
from tests import golden
from tests.objectives import batches, golden_maps


@pytest.mark.parametrize("name", ["down", "same", "up", "valid"])
def test_fitnet_equals_the_golden_file(name):
    _check_fitnet(golden.load(f"fitnet_{name}"))


def test_fitnet_with_a_pooled_teacher_equals_the_golden_file():
    _check_fitnet(golden.load("imagenet_fitnet_pool"))


def _check_fitnet(file):
    student, teacher = golden_maps.nhwc(file["in/f_s"]), golden_maps.nhwc(file["in/f_t"])
    layers = adapters.regressor(student.shape, teacher.shape)
    names = golden_maps.layer_names(layers, ["reg.conv"], ["reg.bn"])
    params = golden_maps.read_params(file, layers, names)
    objective = objectives.create("fitnet", tap=1)

    def loss(params, student):
        pair = golden_maps.outputs([student]), golden_maps.outputs([teacher])
        return objective.loss(ObjectiveState(params), *pair, batches.NO_BATCH)[0]

    golden_maps.check_adapter_loss(file, loss, params, layers, names, student)
    golden_maps.check_close(
        jax.jit(adapters.apply, static_argnums=0)(layers, params, student),
        golden.to_nhwc(file["out/reg_out"]),
    )
    golden_maps.check_running_statistics(file, layers, params, names, student)
    initial = jax.eval_shape(
        objective.init,
        jax.random.key(0),
        golden_maps.outputs([student]),
        golden_maps.outputs([teacher]),
    )
    assert jax.tree.map(jnp.shape, initial.params) == jax.tree.map(jnp.shape, params)


def test_fitnet_refuses_a_missing_tap():
    outputs = golden_maps.outputs([jnp.ones((2, 4, 4, 3))])
    with pytest.raises(errors.InputError, match="tap is 2, but the networks share only 2 taps"):
        objectives.create("fitnet").init(jax.random.key(0), outputs, outputs)


def test_a_negative_tap_is_refused():
    with pytest.raises(errors.InputError, match="tap is -1"):
        objectives.create("fitnet", tap=-1)
