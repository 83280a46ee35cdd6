import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.networks import Outputs
from tests.objectives import batches


def test_ce_is_minus_the_log_probability_of_the_label():
    scores = np.array([[2.0, 0.0, -1.0], [0.0, 0.0, 3.0]])
    objective = objectives.create("ce")
    outputs = Outputs(jnp.asarray(scores, jnp.float32), jnp.zeros((2, 1)))
    state = objective.init(jax.random.key(0), outputs, None)
    actual, _ = objective.loss(state, outputs, None, batches.from_labels([0, 1]))
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(actual, -np.log([p[0, 0], p[1, 1]]), rtol=1e-6)


def test_the_cross_entropy_of_a_mixed_image_weights_both_labels():
    student = Outputs(jnp.asarray(np.random.default_rng(0).standard_normal((4, 5))), jnp.zeros(()))
    labels, others = jnp.arange(4), jnp.arange(4)[::-1]
    objective = objectives.create("ce")
    state = objective.init(jax.random.key(0), student, None)

    def loss(label, **mixing):
        return objective.loss(state, student, None, batches.from_labels(label, **mixing))[0]

    mixed = loss(labels, other_label=others, share=jnp.full(4, 0.3))
    expected = 0.3 * loss(labels) + 0.7 * loss(others)
    np.testing.assert_allclose(mixed, expected, rtol=1e-6)


@pytest.mark.parametrize("mixed", [False, True])
def test_smoothed_labels_give_each_class_a_part_of_the_target(mixed):
    scores = np.random.default_rng(1).standard_normal((3, 4))
    log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    labels, others, share = np.array([0, 3, 1]), np.array([2, 3, 0]), np.full(3, 0.25)
    targets = np.eye(4)[labels]
    mixing = {}
    if mixed:
        targets = 0.25 * targets + 0.75 * np.eye(4)[others]
        mixing = {"other_label": jnp.asarray(others), "share": jnp.asarray(share)}
    expected = -((0.8 * targets + 0.2 / 4) * log_p).sum(-1)
    objective = objectives.create("ce", label_smoothing=0.2)
    outputs = Outputs(jnp.asarray(scores, jnp.float32), jnp.zeros((3, 1)))
    state = objective.init(jax.random.key(0), outputs, None)
    actual, _ = objective.loss(state, outputs, None, batches.from_labels(labels, **mixing))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("part", [-0.1, 1.0, float("nan")])
def test_invalid_label_smoothing_is_refused(part):
    with pytest.raises(errors.InputError, match=f"label_smoothing is {part}, but must be in"):
        objectives.create("ce", label_smoothing=part)
