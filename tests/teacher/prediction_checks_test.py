"""Sanity checks on predictions: chance level, constant predictions and permuted classes."""

import itertools

import numpy as np
import pytest

from rrd_jax.teacher import prediction_checks


def _find_problem(prediction, label, num_classes):
    return prediction_checks.find_problem({"prediction": prediction, "label": label}, num_classes)


def _predict_noisily(label, num_classes, share, seed=0):
    """Returns predictions: correct with probability `share`, else random."""
    rng = np.random.default_rng(seed)
    wrong = rng.integers(0, num_classes, len(label))
    return np.where(rng.random(len(label)) < share, label, wrong)


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
@pytest.mark.parametrize("images", [200, 2000])
def test_trained_networks_pass(images, num_classes):
    for seed, share in itertools.product(range(5), (0.5, 0.8, 1.0)):
        label = np.random.default_rng(seed).integers(0, num_classes, images)
        assert not _find_problem(
            _predict_noisily(label, num_classes, share, seed), label, num_classes
        )


@pytest.mark.parametrize("num_classes", [2, 10, 100])
@pytest.mark.parametrize("images", [30, 797, 10000])
def test_random_predictions_are_detected(images, num_classes):
    for seed in range(5):
        label = np.random.default_rng(seed).integers(0, num_classes, images)
        problem = _find_problem(
            _predict_noisily(label, num_classes, 0.0, seed + 99), label, num_classes
        )
        assert "close to chance" in problem


@pytest.mark.parametrize(("num_classes", "share"), [(2, 0.9), (10, 0.5), (10, 1.0), (100, 0.7)])
def test_permuted_classes_are_detected(num_classes, share):
    label = np.sort(np.random.default_rng(0).integers(0, num_classes, 2000))
    order = np.roll(np.arange(num_classes), 1)
    problem = _find_problem(order[_predict_noisily(label, num_classes, share)], label, num_classes)
    assert "with permuted classes" in problem


def test_two_swapped_classes_and_constant_predictions_are_detected():
    label = np.arange(1000) % 10
    order = np.array([1, 0, *range(2, 10)])
    assert "80.0 % on 1,000 test images, but 100.0 %" in _find_problem(order[label], label, 10)
    assert "every prediction is class 3" in _find_problem(np.full(1000, 3), label, 10)


def test_predictions_for_few_images_are_not_checked():
    label = np.array([0, 1, 0, 1])
    assert not _find_problem(label, label, 2)
    assert not _find_problem(np.zeros(5, int), np.zeros(5, int), 1)
    assert not _find_problem(np.zeros(0, int), np.zeros(0, int), 10)
