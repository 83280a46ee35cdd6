import jax
import jax.numpy as jnp
import pytest

from rrd_jax import errors, objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives import cc
from tests import golden
from tests.objectives import batches


def test_cc_has_the_golden_loss_and_gradients_of_both_layers():
    file = golden.load("cc")
    objective = objectives.create("cc", dim=12)
    params = {
        "student": golden.linear(file, "embed_s.linear"),
        "teacher": golden.linear(file, "embed_t.linear"),
    }

    def loss(params, student):
        outputs = (Outputs(jnp.zeros(()), x) for x in (student, file["in/f_t"]))
        return objective.loss(objectives.ObjectiveState(params), *outputs, batches.NO_BATCH)[0]

    value, (layers, features) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
        params, file["in/f_s"]
    )
    assert golden.relative(value, file["out/loss"]) < 1e-5
    assert golden.relative(features, file["grad/in/f_s"]) < 1e-5
    golden.check_linear(layers["student"], file, "grad/param/embed_s.linear")
    golden.check_linear(layers["teacher"], file, "grad/param/embed_t.linear")


def test_cc_refuses_a_batch_of_one():
    with pytest.raises(errors.InputError, match="a batch of 1 is too small"):
        cc.cc_loss(jnp.ones((1, 3)), jnp.ones((1, 3)))
