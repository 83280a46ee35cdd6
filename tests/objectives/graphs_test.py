import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives import graphs
from tests import golden


@pytest.mark.parametrize("name", ["itrd", "itrd_samedim"])
def test_itrd_golden_with_both_weights_at_one(name):
    file = golden.load(name)
    objective = objectives.create("itrd", alpha=1.5, correlation=1.0, mutual=1.0)

    def loss(params, student):
        outputs = (Outputs(jnp.zeros(()), x) for x in (student, file["in/f_t"]))
        return objective.loss(objectives.ObjectiveState(params), *outputs, {})[0]

    value, (layer, features) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
        golden.linear(file, "crit.embed.linear"), file["in/f_s"]
    )
    assert golden.relative(value, file["out/loss"]) < 1e-5
    assert golden.relative(features, file["grad/in/f_s"]) < 1e-5
    golden.check_linear(layer, file, "grad/param/crit.embed.linear", floor=5e-7)


def test_the_weights_of_itrd_weigh_its_parts():
    rng = np.random.default_rng(0)
    student, teacher = (jnp.asarray(x, jnp.float32) for x in rng.standard_normal((2, 6, 4)))
    outputs = Outputs(jnp.zeros(()), student), Outputs(jnp.zeros(()), teacher)
    objective = objectives.create("itrd", alpha=1.01, correlation=0.0, mutual=3.0)
    state = objective.init(jax.random.key(0), *outputs)
    found, _ = objective.loss(state, *outputs, {})
    np.testing.assert_allclose(found, 3 * graphs.itrd_mutual_loss(student, teacher), rtol=1e-6)


def test_itrd_of_dimensions_that_the_teacher_repeats_is_bounded_by_the_unbiased_deviation():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 3)), jnp.float32)
    # Every c_d is (B - 1) / B, from the unbiased deviations.
    wanted = np.log2(3 * (1 / 8) ** 3)
    np.testing.assert_allclose(graphs.itrd_correlation_loss(x, 5 * x + 1), wanted, rtol=1e-5)


def test_ega_golden():
    file = golden.load("ega")
    value, gradient = jax.jit(
        jax.value_and_grad(lambda student: graphs.ega_loss(student, file["in/f_t"]))
    )(file["in/f_s"])
    assert golden.relative(value, file["out/loss"]) < 1e-5
    assert golden.relative(gradient, file["grad/in/f_s"]) < 1e-5


@pytest.mark.parametrize("batch", [1, 5, 12])
def test_ega_equals_float64(batch):
    rng = np.random.default_rng(batch)
    student, teacher = rng.standard_normal((2, batch, 7))
    r = np.corrcoef(np.concatenate([teacher, student]))
    r_tt, r_ts, r_ss = r[:batch, :batch], r[:batch, batch:], r[batch:, batch:]
    wanted = 2 * np.linalg.norm(r_ts - np.eye(batch)) + 3 * np.linalg.norm(r_tt - r_ss)
    found = graphs.ega_loss(jnp.asarray(student), jnp.asarray(teacher), node=2.0, edge=3.0)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_values_out_of_range_are_named():
    with pytest.raises(errors.InputError, match=r"alpha is 0.4, but must be .* 0.5 or above"):
        objectives.create("itrd", alpha=0.4)
    with pytest.raises(errors.InputError, match="edge is -1"):
        objectives.create("ega", edge=-1)
    with pytest.raises(errors.InputError, match="mutual is inf"):
        objectives.create("itrd", mutual=float("inf"))
