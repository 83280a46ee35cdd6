import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import (
    dkd,
    kd,
)


def _dkd64(student, teacher, labels, temperature, alpha, beta):
    losses = []
    for s, t, label in zip(student, teacher, labels, strict=True):
        p, q = (np.exp(x / temperature) / np.exp(x / temperature).sum() for x in (t, s))
        binary = [np.array([x[label], 1 - x[label]]) for x in (p, q)]
        others = [np.delete(x, label) / np.delete(x, label).sum() for x in (p, q)]
        target, rest = ((a * np.log(a / b)).sum() for a, b in (binary, others))
        losses.append(temperature**2 * (alpha * target + beta * rest))
    return np.array(losses)


@pytest.mark.parametrize(("temperature", "alpha", "beta"), [(4, 1, 8), (1, 2, 0.5), (20, 0, 1)])
@pytest.mark.parametrize("classes", [2, 9])
def test_dkd_equals_float64(temperature, alpha, beta, classes):
    rng = np.random.default_rng(0)
    student, teacher = 3 * rng.standard_normal((2, 6, classes))
    labels = rng.integers(0, classes, 6)
    options = {"temperature": temperature, "alpha": alpha, "beta": beta}
    loss = jax.jit(lambda s, t, labels: dkd.dkd_loss(s, t, labels, **options))
    actual = loss(student, teacher, labels)
    expected = _dkd64(student, teacher, labels, **options)
    # Divergences are about 0.01 nats, times T^2, and float32 logits are exact to 1e-7.
    np.testing.assert_allclose(
        actual, expected, rtol=1e-4 if temperature == 20 else 2e-5, atol=1e-5
    )


def test_dkd_with_coupled_weights_equals_kd():
    rng = np.random.default_rng(0)
    student, teacher = jnp.asarray(rng.standard_normal((2, 6, 9)))
    labels = jnp.arange(6)
    rest = 1 - jnp.take_along_axis(jax.nn.softmax(teacher / 4), labels[:, None], axis=1)[:, 0]
    target, others = (
        dkd.dkd_loss(student, teacher, labels, alpha=a, beta=1 - a) for a in (1.0, 0.0)
    )
    actual = target + rest * others
    np.testing.assert_allclose(actual, kd.kd_loss(student, teacher, temperature=4.0), rtol=1e-4)


def test_invalid_values_and_single_classes_are_refused():
    with pytest.raises(errors.InputError, match="beta is -1"):
        objectives.create("dkd", beta=-1)
    with pytest.raises(errors.InputError, match="there is one class"):
        dkd.dkd_loss(jnp.ones((2, 1)), jnp.ones((2, 1)), jnp.zeros(2, int))
