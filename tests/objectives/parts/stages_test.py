import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import objectives
from tests.objectives import adapted, batches


@pytest.mark.parametrize("name", ["ab", "ft", "fsp"])
def test_descending_the_stages_loss_lowers_it(name):
    rng = np.random.default_rng(0)
    taps = [(8, 8, 6), (4, 4, 8)]
    student, teacher = (
        [jnp.asarray(rng.standard_normal((4, *tap)), jnp.float32) for tap in taps] for _ in range(2)
    )
    objective = objectives.create(name)
    both = adapted.outputs(student), adapted.outputs(teacher)
    state = jax.jit(objective.init)(jax.random.key(0), *both)

    def loss(frozen, student):
        own = state._replace(frozen=frozen)
        return objective.stage.loss(own, adapted.outputs(student), both[1], batches.NO_BATCH)[0]

    step, trained, values = adapted.jitted(loss), (state.frozen, student), []
    rate = {"ab": 100.0, "ft": 1.0, "fsp": 50.0}[name]
    for _ in range(20):
        value, gradients = step(*trained)
        trained = jax.tree.map(lambda x, g: x - rate * g, trained, gradients)
        values.append(value)
    assert values[-1] < 0.98 * values[0]
    assert jax.tree.leaves(gradients[1])[0].any() == objective.stage.student
