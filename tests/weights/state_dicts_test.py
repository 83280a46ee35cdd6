import jax
import numpy as np
import pytest

from rrd_jax import errors, networks
from rrd_jax.weights import from_torch, to_torch
from tests import golden


def random_variables(name, num_classes, image_shape):
    """Variables of a network as numpy arrays; nothing is compiled."""
    images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    shapes = jax.eval_shape(networks.create(name, num_classes).init, jax.random.key(0), images)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shapes)


@pytest.fixture
def few_networks(monkeypatch):
    """Few networks are known: a hint looks at the shapes of them all."""
    known = {name: networks.MODELS[name] for name in ("resnet8", "resnet14", "vgg8")}
    monkeypatch.setattr(networks, "MODELS", known)


@pytest.mark.parametrize("name", ["resnet8", "resnet18"])
def test_round_trip_is_exact(name):
    variables = random_variables(name, 10, (32, 32, 3))
    back = from_torch(name, to_torch(name, variables))
    jax.tree.map(np.testing.assert_array_equal, variables, back)


def test_classes_and_channels_are_read_from_the_shapes():
    variables = random_variables("resnet8", 3, (8, 8, 1))
    back = from_torch("resnet8", to_torch("resnet8", variables))
    jax.tree.map(np.testing.assert_array_equal, variables, back)


def test_the_other_way_keeps_every_entry():
    file = golden.load("resnet8")
    weights = golden.named_weights(file["entry_names"], file["entry_shapes"], salt="other ")
    back = to_torch("resnet8", from_torch("resnet8", weights))
    assert back.keys() == weights.keys()
    for entry in weights:
        np.testing.assert_array_equal(back[entry], weights[entry])


@pytest.mark.usefixtures("few_networks")
def test_a_mismatch_shows_both_sides():
    file = golden.load("resnet8")
    weights = golden.named_weights(file["entry_names"], file["entry_shapes"])
    with pytest.raises(errors.InputError, match="does not fit resnet14 in .*: it fits resnet8"):
        from_torch("resnet14", weights)
    with pytest.raises(errors.InputError, match="unknown model 'resnet9'; did you mean"):
        from_torch("resnet9", weights)
    weights["stranger.weight"] = weights.pop("bn1.bias")
    weights["bn1.weight"] = np.ones(7, np.float32)
    with pytest.raises(errors.InputError) as caught:
        from_torch("resnet8", weights)
    lines = str(caught.value).split("\n")
    assert lines[0].startswith("the state dict does not fit resnet8 in 3 entries: ")
    assert lines[2].split() == ["bn1.bias", "(16,)", "absent"]
    assert lines[3].split() == ["bn1.weight", "(16,)", "(7,)"]
    assert lines[4].split() == ["stranger.weight", "absent", "(16,)"]


@pytest.mark.long
def test_of_all_networks_the_one_that_fits_is_named():
    file = golden.load("resnet8")
    weights = golden.named_weights(file["entry_names"], file["entry_shapes"])
    with pytest.raises(errors.InputError, match="does not fit vgg13: it fits resnet8"):
        from_torch("vgg13", weights)
