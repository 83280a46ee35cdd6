import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import objectives
from rrd_jax.networks import Outputs
from tests.objectives import batches


def test_ce_is_minus_the_log_probability_of_the_label():
    scores = np.array([[2.0, 0.0, -1.0], [0.0, 0.0, 3.0]])
    objective = objectives.create("ce")
    outputs = Outputs(jnp.asarray(scores, jnp.float32), jnp.zeros((2, 1)))
    state = objective.init(jax.random.key(0), outputs, None)
    found, _ = objective.loss(state, outputs, None, batches.of([0, 1]))
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, -np.log([p[0, 0], p[1, 1]]), rtol=1e-6)


def test_cross_entropy_of_a_mixed_image_weighs_both_labels():
    student = Outputs(jnp.asarray(np.random.default_rng(0).standard_normal((4, 5))), jnp.zeros(()))
    labels, others = jnp.arange(4), jnp.arange(4)[::-1]
    objective = objectives.create("ce")
    state = objective.init(jax.random.key(0), student, None)

    def loss(label, **mixing):
        return objective.loss(state, student, None, batches.of(label, **mixing))[0]

    mixed = loss(labels, other_label=others, share=jnp.full(4, 0.3))
    wanted = 0.3 * loss(labels) + 0.7 * loss(others)
    np.testing.assert_allclose(mixed, wanted, rtol=1e-6)
