import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from rrd_jax import errors, objectives
from rrd_jax.models import Outputs
from rrd_jax.objectives import logits
from tests import golden


def _kd64(student, teacher, temperature):
    def log_softmax(x):
        x = x / temperature
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    log_s, log_t = log_softmax(student), log_softmax(teacher)
    return temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum(-1)


class VariantsTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
    @parameterized.parameters(1.0, 4.0, 20.0)
    def test_kd_equals_float64(self, temperature):
        rng = np.random.default_rng(0)
        student, teacher = 5 * rng.standard_normal((2, 6, 9))
        loss = self.variant(lambda s, t: logits.kd_loss(s, t, temperature=temperature))
        found = loss(jnp.asarray(student, jnp.float32), jnp.asarray(teacher, jnp.float32))
        wanted = _kd64(student, teacher, temperature)
        np.testing.assert_allclose(np.ravel(found)[: len(wanted)], wanted, rtol=1e-5)


@pytest.mark.parametrize("name", ["kd", "kd_T1"])
def test_kd_golden_loss_and_gradient(name):
    file = golden.load(name)
    loss, gradient = jax.value_and_grad(
        lambda s: jnp.mean(logits.kd_loss(s, file["in/y_t"], temperature=float(file["hp/T"])))
    )(jnp.asarray(file["in/y_s"]))
    assert golden.relative(loss, file["out/loss"]) < 1e-5
    assert golden.relative(gradient, file["grad/in/y_s"]) < 1e-5


def test_kd_is_zero_for_equal_logits_and_finite_for_extreme_ones():
    x = jnp.asarray([[1e4, -1e4, 0.0]])
    np.testing.assert_allclose(logits.kd_loss(x, x, temperature=4.0), 0, atol=1e-6)
    value, gradient = jax.value_and_grad(lambda s: jnp.sum(logits.kd_loss(s, -x, temperature=1.0)))(
        x
    )
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_kd_has_no_gradient_into_the_teacher():
    x = jnp.asarray([[1.0, 2.0]])
    gradient = jax.grad(lambda t: jnp.sum(logits.kd_loss(x, t, temperature=4.0)))(x + 1)
    np.testing.assert_array_equal(gradient, 0)


def test_ce_is_minus_the_log_probability_of_the_label():
    scores = np.array([[2.0, 0.0, -1.0], [0.0, 0.0, 3.0]])
    objective = objectives.create("ce")
    outputs = Outputs(jnp.asarray(scores, jnp.float32), jnp.zeros((2, 1)))
    state = objective.init(jax.random.key(0), outputs, None)
    found, _ = objective.loss(state, outputs, None, {"label": jnp.asarray([0, 1])})
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, -np.log([p[0, 0], p[1, 1]]), rtol=1e-6)


def test_bad_names_options_and_temperatures_are_named():
    with pytest.raises(errors.InputError, match="unknown objective 'rdd'; did you mean 'rrd'"):
        objectives.create("rdd")
    with pytest.raises(errors.InputError, match="did you mean 'temperature'"):
        objectives.create("kd", temprature=3.0)
    with pytest.raises(errors.InputError, match="temperature is 0"):
        objectives.create("kd", temperature=0)


def test_cross_entropy_of_a_mixed_image_weighs_both_labels():
    student = Outputs(jnp.asarray(np.random.default_rng(0).standard_normal((4, 5))), jnp.zeros(()))
    labels, others = jnp.arange(4), jnp.arange(4)[::-1]
    objective = objectives.create("ce")
    state = objective.init(jax.random.key(0), student, None)

    def loss(**batch):
        return objective.loss(state, student, None, batch)[0]

    mixed = loss(label=labels, other_label=others, share=jnp.float32(0.3))
    wanted = 0.3 * loss(label=labels) + 0.7 * loss(label=others)
    np.testing.assert_allclose(mixed, wanted, rtol=1e-6)
