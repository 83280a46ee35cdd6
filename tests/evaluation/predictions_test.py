"""Predictions of networks for all examples of a split."""

import re

import jax
import numpy as np
import pytest

from rrd_jax import errors, networks, objectives, parallel
from rrd_jax.data.augment import pipeline
from rrd_jax.data.feeds import feed
from rrd_jax.evaluation import predictions


@pytest.mark.parametrize("devices", [1, 8])
def test_each_example_is_predicted_once_on_any_number_of_devices(devices):
    labels = np.arange(11, dtype=np.int32)
    source = [{"image": np.full((1, 1, 1), i, np.uint8), "label": i} for i in labels]
    split = feed.Resident(source, size=1, channels=1)

    def predict(variables, images, labels):
        losses = labels * 2.0
        return {"prediction": images[:, 0, 0, 0], "rank": labels, "loss": losses, "label": labels}

    mesh = parallel.make_mesh(jax.devices()[:devices])
    predicted = predictions.collect(jax.jit(predict), None, split, 4, mesh)
    np.testing.assert_array_equal(predicted["prediction"], labels)
    np.testing.assert_array_equal(predicted["rank"], labels)
    np.testing.assert_array_equal(predicted["loss"], labels * 2.0)
    np.testing.assert_array_equal(predicted["label"], labels)


@pytest.mark.parametrize(
    ("examples", "largest", "devices", "size"),
    [(34, 500, 1, 34), (34, 500, 8, 40), (797, 500, 1, 399), (1000, 500, 8, 504), (0, 500, 8, 8)],
)
def test_even_batch_minimizes_the_number_of_batches_and_the_padding(
    examples, largest, devices, size
):
    assert predictions.even_batch(examples, largest, devices) == size


def test_equal_networks_share_a_compiled_function():
    mesh = parallel.make_mesh(jax.devices()[:1])
    network, equal, other = (networks.create("resnet8", count) for count in (10, 10, 5))
    normalize = pipeline.make_normalize((0.5,), (0.5,))
    function = predictions.compile_predict(network, normalize, mesh)
    assert predictions.compile_predict(equal, normalize, mesh, {}) is function
    assert predictions.compile_predict(other, normalize, mesh) is not function
    assert predictions.compile_predict(network, normalize, mesh, fast_cpu=False) is not function
    terms = {"simkd": objectives.create("simkd")}
    assert predictions.compile_predict(network, normalize, mesh, terms) is not function


def test_an_unhashable_network_can_be_compiled():
    class Unhashable:
        __hash__ = None

    mesh = parallel.make_mesh(jax.devices()[:1])
    assert predictions.compile_predict(Unhashable(), lambda images: images, mesh)


@pytest.mark.parametrize(
    ("losses", "finite", "message"),
    [
        ([1.0, 2.0, 3.0], [True] * 3, ""),
        ([1.0, np.nan, np.inf], [True] * 3, "the loss of 2 of 3 .* example 1"),
        ([1.0, 2.0, 3.0], [True, True, False], "the embedding of 1 of 3 .* example 2"),
    ],
)
def test_predictions_that_are_not_finite_are_described(losses, finite, message):
    predicted = {"loss": np.array(losses), "finite": np.array(finite)}
    description = predictions.invalid(predicted)
    assert re.search(message, description)
    assert bool(description) == bool(message)


def test_embeddings_that_are_not_finite_are_refused():
    embeddings = np.ones((4, 2), np.float32)
    predictions.check_finite(embeddings, "the embeddings")
    embeddings[2, 1] = np.inf
    with pytest.raises(errors.InputError, match="the embeddings of 1 of 4 images .* image 2"):
        predictions.check_finite(embeddings, "the embeddings")
