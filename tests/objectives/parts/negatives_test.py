import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax.objectives.parts import negatives

_draw = jax.jit(negatives.draw, static_argnums=3)


def _draw_state(labels, draws=0):
    return negatives.DrawState(jnp.asarray(labels, jnp.int32), jnp.int32(draws))


@pytest.mark.parametrize(("size", "classes", "count"), [(60, 5, 40), (300, 3, 150), (50, 50, 49)])
@pytest.mark.parametrize("seed", range(3))
def test_draws_are_distinct_and_of_other_classes(size, classes, count, seed):
    labels = np.random.default_rng(seed).permutation(np.arange(size) % classes)
    rows = np.arange(0, size, 7)
    actual = _draw(jax.random.key(seed), _draw_state(labels), jnp.asarray(labels[rows]), count)
    assert actual.shape == (len(rows), count)
    for row, drawn in zip(rows, np.asarray(actual), strict=True):
        assert len(set(drawn.tolist())) == count
        assert not np.any(labels[drawn] == labels[row])
        assert drawn.min() >= 0
        assert drawn.max() < size


def test_the_largest_draw_is_every_example_of_the_other_classes():
    labels = np.asarray([2, 0, 1, 0, 2, 2])
    actual = _draw(jax.random.key(0), _draw_state(labels), jnp.asarray([2, 0]), 3)
    np.testing.assert_array_equal(np.sort(actual[0]), [1, 2, 3])
    assert set(np.asarray(actual[1]).tolist()) <= {0, 2, 4, 5}


def test_every_ordered_choice_is_equally_likely():
    labels = jnp.asarray([0, 1, 2, 1, 2, 2])
    draws = 6000
    draw = jax.vmap(
        lambda i: negatives.draw(jax.random.key(1), _draw_state(labels, i), jnp.asarray([1, 2]), 2)
    )
    actual = jax.jit(draw)(jnp.arange(draws))
    for row, others in ((0, (0, 2, 4, 5)), (1, (0, 1, 3))):
        counts = collections.Counter(map(tuple, np.asarray(actual[:, row]).tolist()))
        choices = set(itertools.permutations(others, 2))
        assert set(counts) == choices
        expected = draws / len(choices)
        chi2 = sum((n - expected) ** 2 / expected for n in counts.values())
        # For 11 and 5 degrees of freedom, fewer than one in a thousand samples exceed 35.
        assert chi2 < 35


def test_examples_without_a_label_count_as_another_class():
    draw_state = negatives.add_labels(negatives.init(6), jnp.asarray([3, 5]), jnp.asarray([4, 4]))
    actual = _draw(jax.random.key(0), draw_state, jnp.asarray([4, 4]), 4)
    np.testing.assert_array_equal(np.sort(actual), [[0, 1, 2, 4]] * 2)


def test_too_few_negatives_are_repeated_and_no_negatives_stay_in_range():
    actual = _draw(jax.random.key(0), _draw_state([0, 0, 1]), jnp.asarray([0]), 4)
    np.testing.assert_array_equal(actual, [[2, 2, 2, 2]])
    actual = _draw(jax.random.key(0), _draw_state([0, 0, 0]), jnp.asarray([0]), 4)
    assert np.all((actual >= 0) & (actual < 3))


def test_a_draw_is_a_function_of_key_and_number():
    labels = jnp.arange(40) % 4
    draws = [
        _draw(jax.random.key(k), _draw_state(labels, n), labels[:8], 12)
        for k, n in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.any(draws[0] != draws[2])
    assert np.any(draws[0] != draws[3])
