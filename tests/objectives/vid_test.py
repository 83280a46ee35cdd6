import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import ObjectiveState
from rrd_jax.objectives.parts import adapters
from tests import golden
from tests.objectives import batches, golden_maps


@pytest.mark.parametrize("name", ["vid", "imagenet_vid"])
def test_vid_equals_the_golden_file(name):
    file = golden.load(name)
    student, teacher = golden_maps.maps(file, "s"), golden_maps.maps(file, "t")
    objective = objectives.create("vid")
    student_outputs, teacher_outputs = golden_maps.outputs(student), golden_maps.outputs(teacher)
    initial = jax.eval_shape(objective.init, jax.random.key(0), student_outputs, teacher_outputs)
    plain = [adapters.Layer(0, norm=False)] * 3
    params, names = {}, {}
    for i in range(len(student)):
        names[i] = golden_maps.layer_names(
            plain, [f"vid{i}.regressor.{j}" for j in (0, 2, 4)], None
        )
        scale = jnp.asarray(file[f"param/vid{i}.log_scale"])
        params[f"tap{i}"] = {"mean": golden_maps.read_params(file, plain, names[i]), "scale": scale}
    assert jax.tree.map(jnp.shape, initial.params) == jax.tree.map(jnp.shape, params)

    def loss(params, student):
        student_outputs = golden_maps.outputs(student)
        return objective.loss(
            ObjectiveState(params), student_outputs, teacher_outputs, batches.NO_BATCH
        )[0]

    value, (params_gradient, student_gradient) = golden_maps.jit_value_and_grad(loss)(
        params, student
    )
    golden_maps.check_close(value, file["out/loss"])
    gradients = golden_maps.torch_map_gradients(student_gradient)
    for i in range(len(student)):
        tap = params_gradient[f"tap{i}"]
        gradients |= golden_maps.torch_gradients(tap["mean"], plain, names[i])
        gradients[f"param/vid{i}.log_scale"] = tap["scale"]
    golden_maps.check_gradients(file, gradients)


def test_vid_starts_with_the_configured_variance():
    objective = objectives.create("vid", variance=0.3)
    outputs = golden_maps.outputs([jnp.ones((2, 4, 4, 3))])
    state = objective.init(jax.random.key(0), outputs, outputs)
    variance = jax.nn.softplus(state.params["tap0"]["scale"]) + 1e-5
    np.testing.assert_allclose(variance, 0.3, rtol=1e-6)


def test_a_variance_below_the_minimum_is_refused():
    with pytest.raises(errors.InputError, match="variance is 1e-06"):
        objectives.create("vid", variance=1e-6)
