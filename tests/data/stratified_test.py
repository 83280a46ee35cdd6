"""Stratified shares, long tails and wrong labels: exact counts per class, determined by a seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrd_jax.data.subsets import stratified
from tests import fuzz

_LABELS = np.random.default_rng(0).integers(0, 7, 500)


def _counts(labels):
    return np.bincount(labels, minlength=7)


@pytest.mark.parametrize("noise", ["symmetric", "asymmetric"])
def test_label_noise_corrupts_the_exact_share_of_each_class(noise):
    for share in (0.0, 0.001, 0.333, 0.999):
        noisy = stratified.corrupt_labels(_LABELS, share, 7, noise, seed=3)
        wrong = noisy != _LABELS
        assert wrong.sum() == round(share * 500)
        assert (abs(_counts(_LABELS[wrong]) - share * _counts(_LABELS)) < 1).all()


_SPLITS = st.lists(st.integers(0, 5), min_size=1, max_size=40).map(np.array)
_NOISES = st.sampled_from(["symmetric", "asymmetric"])


@fuzz.settings(150)
@given(_SPLITS, st.floats(0, 1, exclude_max=True), st.integers(0, 2**31 - 1), _NOISES)
def test_label_noise_has_the_exact_share_for_any_labels(labels, share, seed, noise):
    noisy = stratified.corrupt_labels(labels, share, 6, noise, seed)
    assert (noisy != labels).sum() == round(share * len(labels))
    assert ((noisy >= 0) & (noisy < 6)).all()


def test_symmetric_noise_is_uniform_and_asymmetric_noise_picks_the_next_class():
    labels = np.arange(60_000) % 4
    symmetric = stratified.corrupt_labels(labels, 0.5, 4, "symmetric")
    steps = np.bincount((symmetric - labels) % 4, minlength=4)
    assert steps[0] == 30_000
    np.testing.assert_allclose(steps[1:], 10_000, rtol=0.05)
    asymmetric = stratified.corrupt_labels(labels, 0.5, 4, "asymmetric")
    assert np.bincount((asymmetric - labels) % 4, minlength=4).tolist() == [30_000, 30_000, 0, 0]


def test_wrong_labels_depend_on_the_seed_and_remain_wrong_with_more_noise():
    fifth, third = (stratified.corrupt_labels(_LABELS, share, 7, seed=1) for share in (0.2, 0.35))
    np.testing.assert_array_equal(fifth, stratified.corrupt_labels(_LABELS, 0.2, 7, seed=1))
    other = stratified.corrupt_labels(_LABELS, 0.2, 7, seed=2)
    assert ((other != _LABELS) != (fifth != _LABELS)).sum() > 50
    wrong = fifth != _LABELS
    np.testing.assert_array_equal(third[wrong], fifth[wrong])


def test_a_share_keeps_class_proportions_and_is_a_subset_of_larger_shares():
    for share, expected in ((0.001, 7), (0.01, 7), (0.05, 25), (0.5, 250), (1, 500)):
        positions = stratified.draw_share(_LABELS, share, seed=0)
        assert len(set(positions.tolist())) == len(positions) == expected
        assert (np.diff(positions) > 0).all()
        counts = _counts(_LABELS[positions])
        assert counts.min() >= 1
        assert (abs(counts - expected / 500 * _counts(_LABELS)) < 1).all()
    small, large = (set(stratified.draw_share(_LABELS, share, 5).tolist()) for share in (0.1, 0.3))
    assert small < large
    assert not set(stratified.draw_share(_LABELS, 0.1, 6).tolist()) <= large


# Image counts of long-tailed CIFAR-10 and CIFAR-100 by Cui et al. (arXiv 1901.05555) and later
# papers, as the code of LDAM (arXiv 1906.07413) computes them.
@pytest.mark.parametrize(
    ("size", "classes", "imbalance", "total", "smallest"),
    [
        (5000, 10, 10, 20431, 500),
        (5000, 10, 50, 13996, 100),
        (5000, 10, 100, 12406, 50),
        (5000, 10, 200, 11203, 25),
        (500, 100, 10, 19573, 50),
        (500, 100, 50, 12608, 10),
        (500, 100, 100, 10847, 5),
    ],
)
def test_long_tails_of_equal_classes_match_the_published_counts(
    size, classes, imbalance, total, smallest
):
    counts = stratified.tail_counts(np.full(classes, size), imbalance)
    assert (counts[0], counts.sum(), counts[-1]) == (size, total, smallest)
    reference = [int(size * (1 / imbalance) ** (i / (classes - 1.0))) for i in range(classes)]
    np.testing.assert_array_equal(counts, reference)


def test_the_scarcest_class_limits_a_long_tail_of_unequal_classes():
    # The second class must have half as many images as the first one.
    sizes = np.array([100, 30, 100])
    np.testing.assert_array_equal(stratified.tail_counts(sizes, 4.0), [61, 30, 15])
    np.testing.assert_array_equal(stratified.tail_counts(np.array([300, 300]), 3.0), [300, 100])


def test_draw_per_class_depends_on_the_seed():
    counts = np.array([50, 40, 30, 20, 10, 5, 1])
    positions = [stratified.draw_per_class(_LABELS, counts, seed) for seed in range(20)]
    np.testing.assert_array_equal(_counts(_LABELS[positions[0]]), counts)
    np.testing.assert_array_equal(positions[0], stratified.draw_per_class(_LABELS, counts, seed=0))
    first = np.flatnonzero(_LABELS == 6)[0]
    # The draw does not simply take the first images.
    assert sum(first in drawn for drawn in positions) < 5


@fuzz.settings(150)
@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=30), st.floats(1.001, 1e6))
def test_long_tails_decrease_and_fit_classes_of_any_size(sizes, imbalance):
    sizes = np.array(sizes)
    counts = stratified.tail_counts(sizes, imbalance)
    assert (counts <= sizes).all()
    assert (np.diff(counts) <= 0).all()
    shape = imbalance ** (-np.arange(len(sizes)) / (len(sizes) - 1))
    assert (abs(counts - counts[0] * shape) < 1 + 1e-6 * counts[0]).all()
    # The tail is the longest that fits, up to the rounding of floats.
    longer = np.floor((counts[0] + 1) * shape * (1 + 1e-8))
    assert (longer > sizes).any()
