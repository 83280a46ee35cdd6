"""Learning rates by step, compared with their formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, optim
from tests import golden

_FIELDS = {"learning_rate": 0.4, "epochs": 10, "steps_per_epoch": 6}


def _rates(name, **fields):
    """Returns the learning rates of the 60 steps."""
    schedule = optim.create_schedule(name, **_FIELDS | fields)
    return np.array(jax.vmap(schedule)(jnp.arange(60)), np.float64)


def test_learning_rates_of_the_cifar_recipe_equal_the_reference():
    expected = golden.load("rrd_resnet8_tiny")["lr_schedule_cifar_epochs1_240"]
    steps = 7
    boundaries = optim.boundaries((0.625, 0.75, 0.875), 240, steps)
    assert boundaries == [150 * steps, 180 * steps, 210 * steps]
    schedule = optim.step_schedule(0.05, boundaries)
    for step_in_epoch in (0, steps - 1):
        actual = [float(schedule(epoch * steps + step_in_epoch)) for epoch in range(240)]
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
    # Two equal boundaries both decay the rate.
    repeated = optim.step_schedule(1.0, [3, 3])
    np.testing.assert_allclose([repeated(2), repeated(3)], [1.0, 0.01], rtol=1e-6)


def test_milestones_between_two_epochs_are_rounded_up_but_for_old_workdirs():
    milestones = (0.25, 0.625, 0.875)
    assert optim.boundaries(milestones, 4, 10) == [10, 30, 40]
    assert optim.boundaries(milestones, 20, 10) == [50, 130, 180]
    assert optim.boundaries(milestones, 20, 10, half_to_even=True) == [50, 120, 180]


@pytest.mark.parametrize("milestone", [0.0, -0.5, 150])
def test_milestones_outside_the_run_are_refused(milestone):
    with pytest.raises(errors.InputError, match=f"milestones has {milestone}"):
        optim.boundaries([milestone], 240, 1)


def test_cosine_and_linear_schedules_end_at_the_final_rate():
    t = np.arange(60) / 60
    cosine = 0.1 + 0.3 * (1 + np.cos(math.pi * t)) / 2
    np.testing.assert_allclose(_rates("cosine", final_learning_rate=0.1), cosine, rtol=1e-5)
    linear = _rates("linear", final_learning_rate=0.1)
    np.testing.assert_allclose(linear, 0.4 - 0.3 * t, rtol=1e-5)
    np.testing.assert_allclose(_rates("constant"), np.full(60, 0.4), rtol=1e-6)


def test_the_schedule_covers_the_steps_after_the_warm_up():
    rates = _rates("cosine", warmup_epochs=1.5, warmup_start=0.04)
    np.testing.assert_allclose(rates[:9], 0.04 + 0.36 * np.arange(9) / 9, rtol=1e-5)
    expected = 0.4 * (1 + np.cos(math.pi * np.arange(51) / 51)) / 2
    np.testing.assert_allclose(rates[9:], expected, rtol=1e-4, atol=1e-7)


def test_a_warm_up_does_not_move_milestones():
    rates = _rates("milestones", milestones=(0.5, 0.8), decay=0.1, warmup_epochs=2)
    assert rates[0] == 0
    np.testing.assert_allclose(rates[[6, 12, 29, 30, 47, 48]] / 0.4, [0.5, 1, 1, 0.1, 0.1, 0.01])


def test_wsd_is_constant_until_its_decay_epochs():
    rates = _rates("wsd", warmup_epochs=1, final_learning_rate=0.04)
    np.testing.assert_allclose(rates[6:49], np.full(43, 0.4), rtol=1e-6)
    np.testing.assert_allclose(rates[48:], 0.4 - 0.36 * np.arange(12) / 12, rtol=1e-5)
    rates = _rates("wsd", options={"decay_epochs": 5, "decay_shape": "cosine"})
    np.testing.assert_allclose(rates[[29, 45]], [0.4, 0.2], rtol=1e-5)


def test_exponential_decays_to_the_final_rate():
    steps = np.arange(60)
    np.testing.assert_allclose(_rates("exponential"), 0.4 * 0.97 ** (steps / 6), rtol=1e-5)
    options = {"decay_rate": 0.5, "every_epochs": 2.0, "staircase": True}
    rates = _rates("exponential", options=options, final_learning_rate=0.06)
    np.testing.assert_allclose(rates, np.maximum(0.4 * 0.5 ** (steps // 12), 0.06), rtol=1e-5)


def test_a_schedule_by_import_path_receives_the_arguments_of_its_signature():
    path = f"{__name__}:square"
    rates = _rates(path, warmup_epochs=1, options={"power": 3})
    np.testing.assert_allclose(rates[6:], 0.4 * (1 - np.arange(54) / 54) ** 3, rtol=1e-4)
    np.testing.assert_allclose(_rates(f"{__name__}:plain"), 0.1 / (1 + np.arange(60)), rtol=1e-5)


def square(learning_rate, steps, power: float = 2.0):
    return lambda step: learning_rate * (1 - step / steps) ** power


def plain(step):
    return 0.1 / (1 + step)


def branches(learning_rate):
    return lambda step: learning_rate if step < 5 else 0.0


def negative():
    return lambda step: -1.0


def late(learning_rate):
    return lambda step: jnp.where(step > 2, jnp.nan, learning_rate)


def zero():
    return lambda step: 0.0 * step


def imaginary(learning_rate):
    return lambda step: 1j * learning_rate


def number(learning_rate):
    return learning_rate


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("cosin", {}, "optimizer.schedule 'cosin'.*'cosine'"),
        ("cosine", {"warmup_epochs": -1.0}, "optimizer.warmup_epochs is -1.0"),
        ("cosine", {"warmup_epochs": 11}, "warmup_epochs is 11, .* 10"),
        ("cosine", {"warmup_start": -0.1}, "optimizer.warmup_start is -0.1"),
        ("cosine", {"final_learning_rate": float("nan")}, "final_learning_rate is nan"),
        ("cosine", {"final_learning_rate": 2.0}, "final_learning_rate is 2, .* 0.4"),
        ("cosine", {"learning_rate": 0.0}, "optimizer.learning_rate is 0.0"),
        ("constant", {"final_learning_rate": 0.1}, "final_learning_rate is 0.1, .*'constant'"),
        ("cosine", {"options": {"power": 2}}, "optimizer.schedule_options.power"),
        ("wsd", {"options": {"decay_epochs": 11}}, "decay_epochs is 11.0"),
        ("wsd", {"options": {"decay_shape": "sharp"}}, "known: linear, cosine"),
        ("exponential", {"options": {"decay_rate": -1.0}}, "schedule_options.decay_rate is -1"),
        ("exponential", {"options": {"decay_rate": "x"}}, "must be of type float"),
        ("exponential", {"options": {"decay_rate": 1e3}}, "return a rate from 0 to 1e.06"),
        ("exponential", {"options": {"every_epochs": 1e30}}, "every_epochs is 1e.30"),
        ("nowhere:x", {}, "no module 'nowhere'"),
        (f"{__name__}:square", {"options": {"powr": 1}}, "'power'"),
        (f"{__name__}:plain", {"options": {"power": 1}}, "no options"),
        (f"{__name__}:branches", {}, "TracerBoolConversionError"),
        (f"{__name__}:negative", {}, "returns -1.0 for step 0"),
        (f"{__name__}:late", {}, "returns nan for step"),
        (f"{__name__}:zero", {}, "returns 0 for every step"),
        (f"{__name__}:imaginary", {}, r"returns complex64 of shape \(\)"),
        (f"{__name__}:number", {}, "returns float, .*step -> rate"),
    ],
)
def test_invalid_schedules_are_refused(name, fields, message):
    with pytest.raises(errors.InputError, match=message):
        optim.create_schedule(name, **_FIELDS | fields)
