import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from rrd_jax import errors
from rrd_jax.objectives import kd
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
        loss = self.variant(lambda s, t: kd.kd_loss(s, t, temperature=temperature))
        actual = loss(jnp.asarray(student, jnp.float32), jnp.asarray(teacher, jnp.float32))
        expected = _kd64(student, teacher, temperature)
        np.testing.assert_allclose(np.ravel(actual)[: len(expected)], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["kd", "kd_T1", "imagenet_kd"])
def test_kd_has_the_golden_loss_and_gradient(name):
    file = golden.load(name)
    temperature = float(file["hp/T"])
    mean = jax.value_and_grad(
        lambda s: jnp.mean(kd.kd_loss(s, file["in/y_t"], temperature=temperature))
    )
    loss, gradient = jax.jit(mean)(file["in/y_s"])
    assert golden.relative(loss, file["out/loss"]) < 1e-5
    assert golden.relative(gradient, file["grad/in/y_s"]) < 1e-5


def test_kd_is_zero_for_equal_logits_and_finite_for_extreme_ones():
    x = jnp.asarray([[1e4, -1e4, 0.0]])
    np.testing.assert_allclose(kd.kd_loss(x, x, temperature=4.0), 0, atol=1e-6)
    total = jax.jit(jax.value_and_grad(lambda s: jnp.sum(kd.kd_loss(s, -x, temperature=1.0))))
    value, gradient = total(x)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_kd_has_no_gradient_for_the_teacher():
    x = jnp.asarray([[1.0, 2.0]])
    gradient = jax.grad(lambda t: jnp.sum(kd.kd_loss(x, t, temperature=4.0)))(x + 1)
    np.testing.assert_array_equal(gradient, 0)


def test_logits_with_different_numbers_of_classes_are_refused():
    with pytest.raises(errors.InputError, match=r"\(2, 3\) and teacher \(2, 4\)"):
        kd.kd_loss(jnp.ones((2, 3)), jnp.ones((2, 4)), temperature=1.0)
