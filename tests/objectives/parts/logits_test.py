import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives import (
    ObjectiveState,
    dkd,
    wsld,
)
from rrd_jax.objectives.parts import logits
from tests.objectives import batches


def _standardized64(x):
    return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)


def test_standardized_logits_have_mean_zero_and_deviation_one_at_any_scale():
    x = np.random.default_rng(0).standard_normal((5, 7))
    standardized = jax.jit(logits.standardized)
    for scale, shift in ((1, 0), (1e-3, 1), (1e4, -5)):
        actual = standardized(jnp.asarray(scale * x + shift))
        np.testing.assert_allclose(actual, _standardized64(x), rtol=2e-3, atol=2e-3)
    constant = jnp.full((2, 7), 0.1)
    np.testing.assert_array_equal(logits.standardized(constant), 0)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.square(standardized(x)))))(constant)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", ["kd", "dkd", "wsld", "dist", "r2kd"])
def test_standardize_applies_the_transform_before_the_softmax(name):
    rng = np.random.default_rng(0)
    raw = [3 * x + 1 for x in rng.standard_normal((2, 6, 9))]
    batch = batches.from_labels(jnp.arange(6))

    def loss(student, teacher, standardize):
        outputs = (Outputs(jnp.asarray(x), jnp.zeros(())) for x in (student, teacher))
        objective = objectives.create(name, temperature=2.0, standardize=standardize)
        return objective.loss(ObjectiveState(), *outputs, batch)[0]

    actual = loss(*raw, standardize=True)
    expected = loss(*(_standardized64(x) for x in raw), standardize=False)
    # The cross-entropies in the weight of WSLD use the original logits.
    if name == "wsld":
        log_s, log_t = (_log_softmax64(x)[np.arange(6), np.arange(6)] for x in raw)
        s, t = (_log_softmax64(_standardized64(x) / 2) for x in raw)
        weight = 1 - np.exp(-log_s / (log_t - 1e-7))
        expected = -log_s - 2.5 * 4 * weight * (np.exp(t) * s).sum(-1)
    np.testing.assert_allclose(actual, expected, rtol=2e-5)


def _log_softmax64(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("name", ["dkd", "wsld"])
def test_a_mixed_image_weights_the_losses_of_both_labels(name):
    rng = np.random.default_rng(0)
    outputs = [Outputs(jnp.asarray(x), jnp.zeros(())) for x in rng.standard_normal((2, 4, 5))]
    labels, others = jnp.arange(4), jnp.arange(4)[::-1]

    def loss(label, **mixing):
        batch = batches.from_labels(label, **mixing)
        return objectives.create(name).loss(ObjectiveState(), *outputs, batch)[0]

    mixed = loss(labels, other_label=others, share=jnp.full(4, 0.3))
    expected = 0.3 * loss(labels) + 0.7 * loss(others)
    np.testing.assert_allclose(mixed, expected, rtol=1e-6)


def test_dkd_and_wsld_stay_finite_for_extreme_logits():
    x = jnp.asarray([[1e4, -1e4, 0.0]])
    for loss in (dkd.dkd_loss, wsld.wsld_loss):
        total = jax.jit(
            jax.value_and_grad(lambda s, labels, loss=loss: jnp.sum(loss(s, -x, labels)))
        )
        for label in range(3):
            value, gradient = total(x, jnp.asarray([label]))
            assert np.isfinite(value)
            assert np.isfinite(gradient).all()
