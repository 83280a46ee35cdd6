"""Confusion matrices, mean IoU, and classes of patches."""

import jax
import numpy as np
import pytest
from sklearn import metrics

from rrd_jax import functional
from rrd_jax.evaluation import segmentation
from rrd_jax.teacher import dense_probe


def _maps(seed, size=(6, 20, 30), classes=4):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, size).astype(np.uint8)
    predicted = np.where(rng.random(size) < 0.6, truth, rng.integers(0, classes, size))
    truth[rng.random(size) < 0.1] = 255
    return truth, predicted.astype(np.uint8)


def test_mean_iou_equals_that_of_scikit_learn():
    truth, predicted = _maps(0)
    matrix = segmentation.confusion_matrix(truth, predicted, 4)
    valid = truth != 255
    expected = metrics.confusion_matrix(truth[valid], predicted[valid], labels=range(4))
    np.testing.assert_array_equal(matrix, expected)
    iou = metrics.jaccard_score(truth[valid], predicted[valid], average="macro")
    assert segmentation.mean_iou(matrix) == (pytest.approx(100 * iou, rel=1e-12), 0)


def test_absent_classes_are_left_out_and_counted():
    truth, predicted = _maps(1)
    small = segmentation.confusion_matrix(truth, predicted, 4)
    large = segmentation.confusion_matrix(truth, predicted, 9)
    assert segmentation.mean_iou(large) == (segmentation.mean_iou(small)[0], 5)
    # A class that is only predicted counts as 0.
    only = segmentation.confusion_matrix(np.array([0, 0, 1]), np.array([0, 2, 1]), 4)
    assert segmentation.mean_iou(only) == (pytest.approx(100 * (0.5 + 1 + 0) / 3), 1)
    mean, absent = segmentation.mean_iou(np.zeros((3, 3), np.int64))
    assert np.isnan(mean)
    assert absent == 3


@pytest.mark.parametrize("grid", [(2, 3), (4, 4), (3, 7), (20, 30)])
def test_pixels_are_counted_in_the_patch_of_their_center(grid):
    mask = _maps(2)[0][0]
    counts = segmentation.patch_counts(mask, grid, 4)
    assert counts.shape == (grid[0] * grid[1], 4)
    expected = np.zeros((*grid, 4))
    for (y, x), index in np.ndenumerate(mask):
        if index != 255:
            row, column = int((y + 0.5) / 20 * grid[0]), int((x + 0.5) / 30 * grid[1])
            expected[row, column, index] += 1
    np.testing.assert_array_equal(counts, expected.reshape(-1, 4))


@pytest.mark.parametrize("size", [(20, 30), (5, 8), (4, 6)])
def test_classes_are_those_of_bilinearly_interpolated_logits(size):
    logits = np.random.default_rng(3).standard_normal((2, 4, 6, 5)).astype(np.float32)
    whole_map = functional.resize(logits, size)
    classes = dense_probe.classes_at(logits, size)
    np.testing.assert_array_equal(classes, np.argmax(whole_map, axis=-1))
    assert classes.dtype == np.uint8


def test_patches_are_interpolated_with_half_pixel_centers():
    row = jax.numpy.arange(4.0).reshape(1, 1, 4, 1)
    result = np.asarray(functional.resize(row, (1, 8)))[0, 0, :, 0]
    np.testing.assert_allclose(result, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6)
