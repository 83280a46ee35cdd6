import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import objectives
from tests.objectives import batches, golden_maps


@pytest.mark.parametrize("name", ["ab", "ft", "fsp"])
def test_gradient_descent_lowers_the_stage_loss(name):
    rng = np.random.default_rng(0)
    taps = [(8, 8, 6), (4, 4, 8)]
    student, teacher = (
        [jnp.asarray(rng.standard_normal((4, *tap)), jnp.float32) for tap in taps] for _ in range(2)
    )
    objective = objectives.create(name)
    both = golden_maps.outputs(student), golden_maps.outputs(teacher)
    state = jax.jit(objective.init)(jax.random.key(0), *both)

    def loss(frozen, student):
        trained = state._replace(frozen=frozen)
        return objective.stage.loss(
            trained, golden_maps.outputs(student), both[1], batches.NO_BATCH
        )[0]

    step, arguments, values = golden_maps.jit_value_and_grad(loss), (state.frozen, student), []
    rate = {"ab": 100.0, "ft": 1.0, "fsp": 50.0}[name]
    for _ in range(20):
        value, gradients = step(*arguments)
        arguments = jax.tree.map(lambda x, g: x - rate * g, arguments, gradients)
        values.append(value)
    assert values[-1] < 0.98 * values[0]
    assert jax.tree.leaves(gradients[1])[0].any() == objective.stage.student
