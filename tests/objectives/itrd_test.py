import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives import itrd
from tests import golden
from tests.objectives import batches


@pytest.mark.parametrize("name", ["itrd", "itrd_samedim"])
def test_itrd_equals_the_golden_file_with_both_weights_at_one(name):
    file = golden.load(name)
    objective = objectives.create("itrd", alpha=1.5, correlation=1.0, mutual=1.0)

    def loss(params, student):
        outputs = (Outputs(jnp.zeros(()), x) for x in (student, file["in/f_t"]))
        return objective.loss(objectives.ObjectiveState(params), *outputs, batches.NO_BATCH)[0]

    value, (layer, features) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
        golden.linear(file, "crit.embed.linear"), file["in/f_s"]
    )
    assert golden.relative(value, file["out/loss"]) < 1e-5
    assert golden.relative(features, file["grad/in/f_s"]) < 1e-5
    golden.check_linear(layer, file, "grad/param/crit.embed.linear", floor=5e-7)


def test_the_weights_of_itrd_scale_its_terms():
    rng = np.random.default_rng(0)
    student, teacher = (jnp.asarray(x, jnp.float32) for x in rng.standard_normal((2, 6, 4)))
    outputs = Outputs(jnp.zeros(()), student), Outputs(jnp.zeros(()), teacher)
    objective = objectives.create("itrd", alpha=1.01, correlation=0.0, mutual=3.0)
    state = jax.jit(objective.init)(jax.random.key(0), *outputs)
    actual, _ = objective.loss(state, *outputs, batches.NO_BATCH)
    np.testing.assert_allclose(actual, 3 * itrd.mutual_loss(student, teacher), rtol=1e-6)


def test_the_correlation_loss_of_perfectly_correlated_dimensions_is_set_by_the_unbiased_deviation():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 3)), jnp.float32)
    # Every c_d is (B - 1) / B because the deviations are unbiased.
    expected = np.log2(3 * (1 / 8) ** 3)
    np.testing.assert_allclose(itrd.correlation_loss(x, 5 * x + 1), expected, rtol=1e-5)


def test_values_out_of_range_are_refused():
    with pytest.raises(errors.InputError, match=r"alpha is 0.4, but must be .* at least 0.5"):
        objectives.create("itrd", alpha=0.4)
    with pytest.raises(errors.InputError, match="mutual is inf"):
        objectives.create("itrd", mutual=float("inf"))
