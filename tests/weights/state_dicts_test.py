"""Conversion between PyTorch state dicts and variables."""

import jax
import numpy as np
import pytest

from rrd_jax import errors, networks
from rrd_jax.weights import from_torch, to_torch
from tests import golden


def random_variables(name, num_classes, image_shape):
    """Returns random variables of a network as NumPy arrays, without compilation."""
    images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    shapes = jax.eval_shape(networks.create(name, num_classes).init, jax.random.key(0), images)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shapes)


@pytest.fixture
def three_networks(monkeypatch):
    """A registry of three networks, because hints compare the shapes of all networks."""
    models = {name: networks.MODELS[name] for name in ("resnet8", "resnet14", "vgg8")}
    monkeypatch.setattr(networks, "MODELS", models)


@pytest.mark.parametrize("name", ["resnet8", "resnet18"])
def test_a_round_trip_of_variables_is_exact(name):
    variables = random_variables(name, 10, (32, 32, 3))
    restored = from_torch(name, to_torch(name, variables))
    jax.tree.map(np.testing.assert_array_equal, variables, restored)


def test_class_and_channel_counts_are_inferred_from_shapes():
    variables = random_variables("resnet8", 3, (8, 8, 1))
    restored = from_torch("resnet8", to_torch("resnet8", variables))
    jax.tree.map(np.testing.assert_array_equal, variables, restored)


def test_a_round_trip_of_a_state_dict_is_exact():
    file = golden.load("resnet8")
    weights = golden.named_weights(file["entry_names"], file["entry_shapes"], salt="other ")
    restored = to_torch("resnet8", from_torch("resnet8", weights))
    assert restored.keys() == weights.keys()
    for entry in weights:
        np.testing.assert_array_equal(restored[entry], weights[entry])


@pytest.mark.usefixtures("three_networks")
def test_the_error_for_a_mismatch_lists_both_sides():
    file = golden.load("resnet8")
    weights = golden.named_weights(file["entry_names"], file["entry_shapes"])
    with pytest.raises(errors.InputError, match="does not fit resnet14 in .*: it fits resnet8"):
        from_torch("resnet14", weights)
    with pytest.raises(errors.InputError, match="unknown model 'resnet9'; did you mean"):
        from_torch("resnet9", weights)
    weights["unknown.weight"] = weights.pop("bn1.bias")
    weights["bn1.weight"] = np.ones(7, np.float32)
    with pytest.raises(errors.InputError) as caught:
        from_torch("resnet8", weights)
    lines = str(caught.value).split("\n")
    assert lines[0].startswith("the state dict does not fit resnet8 in 3 entries: ")
    assert lines[2].split() == ["bn1.bias", "(16,)", "absent"]
    assert lines[3].split() == ["bn1.weight", "(16,)", "(7,)"]
    assert lines[4].split() == ["unknown.weight", "absent", "(16,)"]


@pytest.mark.long
def test_the_matching_network_is_suggested_out_of_all_networks():
    file = golden.load("resnet8")
    weights = golden.named_weights(file["entry_names"], file["entry_shapes"])
    with pytest.raises(errors.InputError, match="does not fit vgg13: it fits resnet8"):
        from_torch("vgg13", weights)
