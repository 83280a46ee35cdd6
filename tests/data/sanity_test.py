"""Sanity checks of images, labels, predictions and losses."""

import re
import time

import numpy as np
import pytest

from rrd_jax import errors
from rrd_jax.data import sanity
from tests import launch

_RNG = np.random.default_rng(0)
_PHOTOS = _RNG.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
_MEAN, _STD = (0.5,) * 3, (0.29,) * 3
_FLAT = np.broadcast_to(_RNG.integers(0, 256, (40, 1, 1, 3), dtype=np.uint8), _PHOTOS.shape)


@pytest.mark.parametrize(
    ("images", "mean", "std", "messages"),
    [
        (_PHOTOS, _MEAN, _STD, []),
        (_PHOTOS, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), []),
        (_PHOTOS // 200, _MEAN, _STD, ["is above 1 of 255"]),
        (_PHOTOS // 200, (0.001,) * 3, (0.002,) * 3, ["is above 1 of 255"]),
        (255 - _PHOTOS // 8, _MEAN, _STD, ["do not match the images, which have mean (0.9"]),
        (_PHOTOS, (0.5, 0.5, 127.0), _STD, ["data.mean and data.std do not match the images"]),
        (_PHOTOS, _MEAN, (0.29, 0.29, 74.0), ["standard deviation (0.993, 0.987, 0.004"]),
        (_PHOTOS[:1].repeat(8, axis=0), _MEAN, _STD, ["first 8 training images are identical"]),
        (_FLAT, _MEAN, _STD, ["40 of the first 40 training images have a uniform color"]),
    ],
)
def test_unusual_training_images_cause_a_warning(images, mean, std, messages):
    warnings = sanity.image_warnings(images, mean, std)
    assert len(warnings) == len(messages)
    for warning, message in zip(warnings, messages, strict=True):
        assert message in warning


def test_errors_for_labels_outside_the_classes_name_the_example():
    sanity.check_labels(np.array([0, 9]), 10, "training")
    with pytest.raises(errors.InputError, match="example 1 of the test split has label 10, .* 10"):
        sanity.check_labels(np.array([0, 10]), 10, "test")
    with pytest.raises(errors.InputError, match="example 345 of the training split has label -1"):
        sanity.check_labels(np.array([0, -1]), 10, "training", np.array([7, 345]))


def _predictions(classes, labels, losses):
    values = {"prediction": classes, "label": labels, "loss": losses}
    return {name: np.asarray(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (_predictions([1, 2, 1], [1, 2, 2], [0.1, 0.2, 0.3]), None),
        # All images belong to the predicted class.
        (_predictions([2, 2], [2, 2], [0.1, 0.2]), None),
        (_predictions([1, 1, 1], [1, 2, 2], [0.1, 0.2, 0.3]), "all 3 test images .* class 1$"),
        (_predictions([1, 1, 1], [1, 2, 2], [0.1, 0.2, 0.2]), "the embedding is constant"),
    ],
)
def test_constant_predictions_cause_a_warning(predictions, message):
    warning = sanity.prediction_warning(predictions)
    assert re.search(message or "^$", warning)


def test_first_not_finite_returns_the_step_and_its_terms():
    nan, inf = np.nan, np.inf
    logged = {"loss": [1, nan, nan], "loss/a": [1, 2, nan], "loss/b": [1, inf, 2]}
    logged = {name: np.array(values) for name, values in logged.items()}
    assert sanity.first_not_finite(logged) == (1, ["loss", "loss/b"])
    assert sanity.first_not_finite({"loss": np.ones(3)}) is None


@pytest.mark.usefixtures("one_device", "tiny_network")
@pytest.mark.long
def test_a_run_prints_each_warning_once_and_data_warnings_before_the_first_step(tmp_path, capsys):
    fields = {"data.std": (0.03,), "data.feed": "streamed"}
    fields |= {"train.epochs": 4, "optimizer.learning_rate": 1e-30}
    launch.run(launch.digits("smoke,tiny,ce", **fields), tmp_path)
    output = capsys.readouterr().out
    assert output.count("test images are classified as class") == 1
    assert 0 < output.find("near 0 and 1") < output.find("epoch   1/4")


def test_constant_predictions_of_many_classes_are_checked_in_linear_time():
    classes, count = 100_000, 200_000
    labels = np.arange(count) % classes
    predictions = {"prediction": np.zeros(count, int), "label": labels, "loss": labels * 1.0}
    start = time.process_time()
    assert sanity.prediction_warning(predictions).endswith("the embedding is constant")
    assert time.process_time() - start < 1
