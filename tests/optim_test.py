import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rrd_jax import errors, optim
from tests import golden


def test_learning_rates_of_the_cifar_recipe_are_the_references():
    wanted = golden.load("rrd_resnet8_tiny")["lr_schedule_cifar_epochs1_240"]
    steps = 7
    boundaries = optim.boundaries((0.625, 0.75, 0.875), 240, steps)
    assert boundaries == [150 * steps, 180 * steps, 210 * steps]
    schedule = optim.step_schedule(0.05, boundaries)
    for step_in_epoch in (0, steps - 1):
        found = [float(schedule(epoch * steps + step_in_epoch)) for epoch in range(240)]
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_milestones_that_fall_together_each_count():
    schedule = optim.step_schedule(1.0, [3, 3])
    np.testing.assert_allclose([schedule(2), schedule(3)], [1.0, 0.01], rtol=1e-6)


def test_sgd_is_pytorchs_rule():
    rate, momentum, decay = 0.1, 0.9, 0.01
    optimizer = optim.sgd(lambda step: rate, momentum=momentum, weight_decay=decay)
    p, buffer = np.float64(2.0), 0.0
    params = {"w": jnp.float32(p)}
    state = optimizer.init(params)
    for gradient in (0.5, -1.0, 0.25):
        buffer = momentum * buffer + gradient + decay * p
        p = p - rate * buffer
        updates, state = optimizer.update({"w": jnp.float32(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["w"], p, rtol=1e-6)


def test_long_gradients_are_shortened_together_before_decay_joins_them():
    optimizer = optim.sgd(lambda step: 1.0, momentum=0.0, weight_decay=0.5, clip_norm=1.0)
    params = {"a": jnp.float32(2.0), "b": jnp.float32(0.0)}
    state = optimizer.init(params)
    updates, state = optimizer.update({"a": jnp.float32(3.0), "b": jnp.float32(4.0)}, state, params)
    np.testing.assert_allclose([updates["a"], updates["b"]], [-(0.6 + 1.0), -0.8], rtol=1e-6)
    updates, state = optimizer.update({"a": jnp.float32(0.3), "b": jnp.float32(0.4)}, state, params)
    np.testing.assert_allclose([updates["a"], updates["b"]], [-(0.3 + 1.0), -0.4], rtol=1e-6)


@pytest.mark.parametrize("bad", [0.0, -0.5, 150])
def test_milestones_outside_the_run_are_refused(bad):
    with pytest.raises(errors.InputError, match="fractions of the run"):
        optim.boundaries([bad], 240, 1)


def test_bad_numbers_are_named():
    with pytest.raises(errors.InputError, match="learning_rate is 0"):
        optim.step_schedule(0, [])
    with pytest.raises(errors.InputError, match="momentum is 1"):
        optim.sgd(lambda step: 0.1, momentum=1.0)
    with pytest.raises(errors.InputError, match="weight_decay is -1"):
        optim.sgd(lambda step: 0.1, weight_decay=-1)
    with pytest.raises(errors.InputError, match="clip_norm is -1"):
        optim.sgd(lambda step: 0.1, clip_norm=-1)
