"""Operators and amounts that RandAugment and TrivialAugment draw, and their frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors
from rrd_jax.data.augment import operators, policies

_COUNT = 6_000


def _draw(name, shape=(224, 448), **options):
    """Returns the names of the drawn operators and their amounts, both [_COUNT, N]."""
    policy = policies.make_policy(name, **options)
    keys = jax.vmap(jax.random.key)(jnp.arange(_COUNT))
    numbers, amounts = jax.jit(jax.vmap(lambda key: policy.draw(key, shape)))(keys)
    return np.asarray(operators.OPERATORS)[numbers], np.asarray(amounts)


def _check_frequencies(counts, share, total=None):
    """Checks that each binomial count is within 4.5 standard deviations of its mean."""
    total = total or counts.sum()
    tolerance = 4.5 * np.sqrt(total * share * (1 - share))
    np.testing.assert_allclose(counts, total * share, atol=tolerance)


def test_randaugment_draws_operators_uniformly_with_the_amounts_of_torchvision():
    names, amounts = _draw("rand")
    assert names.shape == amounts.shape == (_COUNT, 2)
    operator_names, counts = np.unique(names, return_counts=True)
    assert len(operator_names) == 14
    assert not {"invert", "solarize_add"} & set(operator_names)
    _check_frequencies(counts, 1 / 14)
    _check_frequencies(np.unique(names[:, 0], return_counts=True)[1], 1 / 14)
    # The second operator is independent of the first one.
    assert len(set(map(tuple, names))) == 14 * 14
    signed = {"shear_x": 0.09, "rotate": 9, "translate_x": 60, "translate_y": 30}
    for name, size in signed.items():
        drawn = amounts[names == name]
        np.testing.assert_allclose(np.abs(drawn), size, rtol=1e-6)
        _check_frequencies(np.asarray([np.sum(drawn < 0), np.sum(drawn > 0)]), 0.5)
    for name in ("brightness", "color", "contrast", "sharpness"):
        assert np.unique(amounts[names == name]) == pytest.approx([0.73, 1.27])
    assert set(amounts[names == "posterize"]) == {7}
    assert np.unique(amounts[names == "solarize"]) == pytest.approx([178.5])


def test_uniform_randaugment_draws_two_operators_with_the_amounts_of_fixmatch():
    names, amounts = _draw("rand_uniform", magnitude=99)
    operator_names, counts = np.unique(names, return_counts=True)
    assert names.shape == (_COUNT, 2)
    assert len(operator_names) == 14
    _check_frequencies(counts, 1 / 14)
    limits = {"brightness": (0.05, 0.95), "rotate": (-30, 30), "shear_y": (-0.3, 0.3)}
    limits |= {"solarize": (0, 256), "translate_x": (-0.3 * 448, 0.3 * 448)}
    for name, (low, high) in limits.items():
        drawn = amounts[names == name]
        assert low <= drawn.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < drawn.max() <= high
        _check_frequencies(np.histogram(drawn, 4, (low, high))[0], 1 / 4)
    assert set(amounts[names == "posterize"]) == {4, 5, 6, 7}


def test_trivialaugment_draws_one_operator_of_any_magnitude():
    # TrivialAugment ignores magnitude and count.
    names, amounts = _draw("trivial", magnitude=99, count=0)
    assert names.shape == (_COUNT, 1)
    _check_frequencies(np.unique(names, return_counts=True)[1], 1 / 14)
    steps = np.round(np.abs(amounts[names == "rotate"]) / 4.5, 4)
    assert set(steps) == set(range(31))
    _check_frequencies(np.unique(steps, return_counts=True)[1], 1 / 31)
    assert np.abs(amounts[names == "translate_y"]).max() == 32
    bits = amounts[names == "posterize"]
    assert set(bits) == {2, 3, 4, 5, 6, 7, 8}


def test_randaugment_of_timm_applies_half_of_its_operators_with_noisy_magnitudes():
    names, amounts = _draw("rand_increasing", count=3, noise=0.5)
    operator_names, counts = np.unique(names, return_counts=True)
    assert len(operator_names) == 16
    _check_frequencies(counts[operator_names == "identity"], 0.5, total=names.size)
    _check_frequencies(counts[operator_names != "identity"], 1 / 30, total=names.size)
    magnitudes = np.abs(amounts[names == "rotate"]) / 3
    # Magnitudes are clipped at 10, which concerns 2.3 % of a normal distribution.
    assert magnitudes.max() == 10
    assert np.mean(magnitudes == 10) == pytest.approx(0.0228, abs=0.02)
    assert np.median(magnitudes) == pytest.approx(9, abs=0.05)
    assert np.std(magnitudes) == pytest.approx(0.48, abs=0.05)
    assert set(amounts[names == "posterize"]) <= {0, 1, 2}
    assert amounts[names == "brightness"].min() == pytest.approx(0.1)
    assert np.abs(amounts[names == "translate_x"]).max() == pytest.approx(0.45 * 448)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "randaugment"}, "unknown policy 'randaugment'"),
        ({"name": "rand", "magnitude": 31}, "policy_magnitude is 31, but must be from 0 to 30"),
        ({"name": "rand_increasing", "magnitude": 11}, "from 0 to 10 for data.policy rand_incr"),
    ],
)
def test_impossible_policies_are_refused(options, message):
    with pytest.raises(errors.InputError, match=message):
        policies.make_policy(**options)


def test_a_policy_applies_its_operators_in_order():
    policy = policies.make_policy("rand", count=2, magnitude=20)
    keys = jax.vmap(jax.random.key)(jnp.arange(32))
    images = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8).repeat(32, 0)
    numbers, amounts = jax.jit(jax.vmap(lambda key: policy.draw(key, (16, 16))))(keys)
    apply, expected = jax.jit(jax.vmap(operators.apply)), images
    for i in range(2):
        expected = apply(expected, numbers[:, i], amounts[:, i])
    actual = jax.jit(jax.vmap(policy.apply))(keys, images)
    np.testing.assert_array_equal(actual, expected)
    assert len({view.tobytes() for view in np.asarray(actual)}) > 20
