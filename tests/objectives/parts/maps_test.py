import pytest

from rrd_jax import errors
from rrd_jax.objectives.parts import maps


def _shapes(*sizes, channels=None):
    channels = channels or [3] * len(sizes)
    return [(1, size, size, c) for size, c in zip(sizes, channels, strict=True)]


def test_equal_numbers_of_taps_are_paired_by_position():
    assert maps.pair_taps(_shapes(16, 8, 4, 2), _shapes(32, 16, 8, 4)) == tuple(
        (i, i) for i in range(4)
    )
    assert maps.pair_taps(_shapes(16, 8, 4, 4), _shapes(16, 8, 4, 4)) == tuple(
        (i, i) for i in range(4)
    )


def test_different_numbers_of_taps_are_paired_by_size_with_the_last_of_a_size():
    pairs = maps.pair_taps(_shapes(16, 8, 4, 4), _shapes(32, 16, 8))
    assert pairs == ((0, 0 + 1), (1, 2))
    assert maps.pair_taps(_shapes(32, 16, 8), _shapes(16, 8, 4, 4)) == ((1, 0), (2, 1))
    assert maps.pair_taps(_shapes(8, 4), _shapes(16, 8, 4, 4)) == ((0, 1), (1, 3))


def test_incompatible_taps_are_refused_with_both_lists():
    with pytest.raises(errors.InputError, match="taps are 7x7x3, the teacher's 8x8x3 4x4x3"):
        maps.pair_taps(_shapes(7), _shapes(8, 4))
    with pytest.raises(errors.InputError, match="taps are none, the teacher's none"):
        maps.pair_taps([], [])
    with pytest.raises(errors.InputError, match="channel by channel"):
        maps.pair_taps(_shapes(8), _shapes(8, channels=[4]), equal_channels=True)
