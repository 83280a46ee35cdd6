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


@pytest.mark.parametrize("name", ["vid", "imagenet_vid"])
def test_golden_vid(name):
    file = golden.load(name)
    student, teacher = adapted.maps(file, "s"), adapted.maps(file, "t")
    objective = objectives.create("vid")
    own, other = adapted.outputs(student), adapted.outputs(teacher)
    fresh = jax.eval_shape(objective.init, jax.random.key(0), own, other)
    plain = [adapters.Layer(0, norm=False)] * 3
    params, names = {}, {}
    for i in range(len(student)):
        names[i] = adapted.layer_names(plain, [f"vid{i}.regressor.{j}" for j in (0, 2, 4)], None)
        scale = jnp.asarray(file[f"param/vid{i}.log_scale"])
        params[f"tap{i}"] = {"mean": adapted.read(file, plain, names[i]), "scale": scale}
    assert jax.tree.map(jnp.shape, fresh.params) == jax.tree.map(jnp.shape, params)

    def loss(params, student):
        own = adapted.outputs(student)
        return objective.loss(ObjectiveState(params), own, other, batches.NO_BATCH)[0]

    value, (of_params, of_student) = adapted.jitted(loss)(params, student)
    adapted.check(value, file["out/loss"])
    gradients = adapted.torch_maps(of_student)
    for i in range(len(student)):
        tap = of_params[f"tap{i}"]
        gradients |= adapted.torch_names(tap["mean"], plain, names[i])
        gradients[f"param/vid{i}.log_scale"] = tap["scale"]
    adapted.check_gradients(file, gradients)


def test_vid_starts_with_the_variance_it_is_given():
    objective = objectives.create("vid", variance=0.3)
    outputs = adapted.outputs([jnp.ones((2, 4, 4, 3))])
    state = objective.init(jax.random.key(0), outputs, outputs)
    variance = jax.nn.softplus(state.params["tap0"]["scale"]) + 1e-5
    np.testing.assert_allclose(variance, 0.3, rtol=1e-6)


def test_a_variance_below_its_least_is_named():
    with pytest.raises(errors.InputError, match="variance is 1e-06"):
        objectives.create("vid", variance=1e-6)
