"""Calibration metrics compared with loops over images in float64."""

import math

import numpy as np
import pytest

from rrd_jax.evaluation import calibration


def _case(count=301, classes=7, scale=2.0, seed=0):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal((count, classes))).astype(np.float32)
    guesses = rng.integers(0, classes, count)
    labels = np.where(rng.random(count) < 0.6, logits.argmax(1), guesses)
    return logits, labels


def _reference(logits, labels):
    """Computes ECE, NLL and Brier score image by image, with bins (i / 15, (i + 1) / 15]."""
    bins = [[] for _ in range(15)]
    nll = brier = 0.0
    for row, label in zip(logits.astype(np.float64), labels, strict=True):
        exponentials = [math.exp(x) for x in row]
        probabilities = [x / sum(exponentials) for x in exponentials]
        top = max(range(len(row)), key=lambda c: probabilities[c])
        i = next(i for i in range(15) if probabilities[top] <= (i + 1) / 15 or i == 14)
        bins[i].append((probabilities[top], top == label))
        nll -= math.log(probabilities[label])
        brier += sum((p - (c == label)) ** 2 for c, p in enumerate(probabilities))
    gaps = [abs(sum(p for p, _ in b) - sum(hit for _, hit in b)) for b in bins]
    count = len(labels)
    return sum(gaps) / count, nll / count, brier / count


@pytest.mark.parametrize("case", [{}, {"classes": 2}, {"scale": 0.1}, {"count": 3, "scale": 20.0}])
def test_metrics_equal_a_loop_over_images(case):
    logits, labels = _case(**case)
    values = calibration.measure(logits, labels)
    measured = [values[name] for name in ("ece", "nll", "brier")]
    np.testing.assert_allclose(measured, _reference(logits, labels), rtol=1e-12, atol=1e-15)
    assert values["count"].sum() == len(labels)


def test_bins_contain_the_confidences_of_their_images():
    # Probabilities 0.5 and 0.6 of two classes; 0.6 is the upper edge of bin 8.
    logits = np.log(np.array([[0.5, 0.5], [0.4, 0.6], [0.4, 0.6]]))
    values = calibration.measure(logits, np.array([0, 1, 0]))
    assert values["count"].nonzero()[0].tolist() == [7, 8]
    np.testing.assert_allclose(values["confidence"][[7, 8]], [0.5, 0.6])
    np.testing.assert_allclose(values["accuracy"][[7, 8]], [1.0, 0.5])
    assert np.isnan(np.delete(values["accuracy"], [7, 8])).all()
    assert values["ece"] == pytest.approx((0.5 + 2 * 0.1) / 3)


def test_extreme_logits_are_finite():
    values = calibration.measure(np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32), np.array([0, 0]))
    assert values["nll"] == pytest.approx(1e4)
    assert (values["ece"], values["brier"]) == (0.5, 1.0)


def test_overconfidence_is_measured():
    # 60 percent of the labels are random or correct predictions with a confidence close to 1.
    logits, labels = _case(scale=100.0)
    values = calibration.measure(logits, labels)
    is_correct = logits.argmax(1) == labels
    assert values["ece"] == pytest.approx(1 - is_correct.mean(), abs=0.01)
