import numpy as np
import pytest

from rrd_jax.teacher import prediction_checks


def _of(prediction, label, num_classes):
    return prediction_checks.find_problem({"prediction": prediction, "label": label}, num_classes)


def _noisy(label, num_classes, share, seed=0):
    """Predictions of which about a share are right, the others random."""
    rng = np.random.default_rng(seed)
    wrong = rng.integers(0, num_classes, len(label))
    return np.where(rng.random(len(label)) < share, label, wrong)


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
@pytest.mark.parametrize("images", [200, 2000])
def test_a_network_that_knows_something_is_not_doubted(images, num_classes):
    for seed in range(5):
        label = np.random.default_rng(seed).integers(0, num_classes, images)
        for share in (0.5, 0.8, 1.0):
            assert not _of(_noisy(label, num_classes, share, seed), label, num_classes)


@pytest.mark.parametrize("num_classes", [2, 10, 100])
@pytest.mark.parametrize("images", [30, 797, 10000])
def test_a_network_that_guesses_is_doubted_and_no_order_is_made_up(images, num_classes):
    for seed in range(5):
        label = np.random.default_rng(seed).integers(0, num_classes, images)
        doubt = _of(_noisy(label, num_classes, 0.0, seed + 99), label, num_classes)
        assert "where guessing gets" in doubt


@pytest.mark.parametrize(("num_classes", "share"), [(2, 0.9), (10, 0.5), (10, 1.0), (100, 0.7)])
def test_another_order_of_the_classes_is_seen(num_classes, share):
    label = np.sort(np.random.default_rng(0).integers(0, num_classes, 2000))
    order = np.roll(np.arange(num_classes), 1)
    doubt = _of(order[_noisy(label, num_classes, share)], label, num_classes)
    assert "if its classes are put into another order" in doubt


def test_two_classes_that_changed_places_are_seen():
    label = np.arange(1000) % 10
    order = np.array([1, 0, *range(2, 10)])
    assert "gets 80.0 % of 1,000 test images right, but 100.0 %" in _of(order[label], label, 10)


def test_one_class_for_all_images_is_seen():
    label = np.arange(1000) % 10
    assert "puts every test image into class 3" in _of(np.full(1000, 3), label, 10)


def test_a_few_images_say_little():
    label = np.array([0, 1, 0, 1])
    assert not _of(label, label, 2)
    assert not _of(np.zeros(5, int), np.zeros(5, int), 1)
    assert not _of(np.zeros(0, int), np.zeros(0, int), 10)
