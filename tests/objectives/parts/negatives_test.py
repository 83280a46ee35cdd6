import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax.objectives.parts import (
    negatives,
)

_draw = jax.jit(negatives.draw, static_argnums=3)


def _met(labels, draws=0):
    return negatives.DrawState(jnp.asarray(labels, jnp.int32), jnp.int32(draws))


@pytest.mark.parametrize(("size", "classes", "count"), [(60, 5, 40), (300, 3, 150), (50, 50, 49)])
@pytest.mark.parametrize("seed", range(3))
def test_draws_are_distinct_and_of_other_classes(size, classes, count, seed):
    labels = np.random.default_rng(seed).permutation(np.arange(size) % classes)
    rows = np.arange(0, size, 7)
    found = _draw(jax.random.key(seed), _met(labels), jnp.asarray(labels[rows]), count)
    assert found.shape == (len(rows), count)
    for row, drawn in zip(rows, np.asarray(found), strict=True):
        assert len(set(drawn.tolist())) == count
        assert not np.any(labels[drawn] == labels[row])
        assert drawn.min() >= 0
        assert drawn.max() < size


def test_the_largest_draw_is_every_example_of_the_other_classes():
    labels = np.asarray([2, 0, 1, 0, 2, 2])
    found = _draw(jax.random.key(0), _met(labels), jnp.asarray([2, 0]), 3)
    np.testing.assert_array_equal(np.sort(found[0]), [1, 2, 3])
    assert set(np.asarray(found[1]).tolist()) <= {0, 2, 4, 5}


def test_every_ordered_choice_is_equally_likely():
    labels = jnp.asarray([0, 1, 2, 1, 2, 2])
    draws = 6000
    draw = jax.vmap(
        lambda i: negatives.draw(jax.random.key(1), _met(labels, i), jnp.asarray([1, 2]), 2)
    )
    found = jax.jit(draw)(jnp.arange(draws))
    for row, others in ((0, (0, 2, 4, 5)), (1, (0, 1, 3))):
        counts = collections.Counter(map(tuple, np.asarray(found[:, row]).tolist()))
        choices = set(itertools.permutations(others, 2))
        assert set(counts) == choices
        expected = draws / len(choices)
        chi2 = sum((n - expected) ** 2 / expected for n in counts.values())
        assert chi2 < 35  # 11 and 5 degrees of freedom: less than one in a thousand beyond


def test_examples_that_were_not_met_count_as_of_another_class():
    met = negatives.add_labels(negatives.init(6), jnp.asarray([3, 5]), jnp.asarray([4, 4]))
    found = _draw(jax.random.key(0), met, jnp.asarray([4, 4]), 4)
    np.testing.assert_array_equal(np.sort(found), [[0, 1, 2, 4]] * 2)


def test_too_few_others_are_repeated_and_none_at_all_stays_in_range():
    found = _draw(jax.random.key(0), _met([0, 0, 1]), jnp.asarray([0]), 4)
    np.testing.assert_array_equal(found, [[2, 2, 2, 2]])
    found = _draw(jax.random.key(0), _met([0, 0, 0]), jnp.asarray([0]), 4)
    assert np.all((found >= 0) & (found < 3))


def test_a_draw_is_a_function_of_key_and_number():
    labels = jnp.arange(40) % 4
    draws = [
        _draw(jax.random.key(k), _met(labels, n), labels[:8], 12)
        for k, n in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.any(draws[0] != draws[2])
    assert np.any(draws[0] != draws[3])
