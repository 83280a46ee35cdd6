"""Networks by name, their aliases, and the image sizes that they accept."""

import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from rrd_jax import errors, networks
from rrd_jax.networks import __main__ as program
from rrd_jax.terminal import tables
from tests import fresh, golden

# One network of each kind of block and stem.
_KINDS = (
    "resnet8",
    "resnet18",
    "resnet50_cifar",
    "wrn_16_1",
    "vgg8",
    "mobilenetv1",
    "mobilenetv2",
    "shufflenetv1_cifar",
    "shufflenetv2_cifar",
    "shufflenetv2_x1_0",
)


def test_the_error_for_an_unknown_name_lists_known_names():
    with pytest.raises(errors.InputError, match="did you mean 'resnet8x4'.*known: resnet8, "):
        networks.create("resnet8x5", 10)
    with pytest.raises(errors.InputError, match="num_classes is -1"):
        networks.create("resnet8", -1)


def test_the_table_lists_each_network_and_its_aliases(monkeypatch):
    models = {
        name: networks.MODELS[name] for name in ("resnet8", "vgg8", "mobilenetv2", "regnety_004")
    }
    monkeypatch.setattr(networks, "MODELS", models)
    rows = tables.markdown(*program.table()).split("\n")[2:]
    assert [row.split()[1] for row in rows] == list(models)
    assert re.match(r"\| resnet8 +\| 83,892 +\| 12,507,392 +\| 16@32 16@32 32@16 64@8", rows[0])
    for pattern, names in (
        ("regnet_y*", "regnety_004 = regnet_y_400mf"),
        ("mobilenetv2*", "mobilenetv2 = mobilenet_v2 = mobilenetv2_100"),
    ):
        assert [row[0] for row in program.table([pattern])[1]] == [names]
    assert networks.create("regnet_y_400mf", 7) == networks.create("regnety_004", 7)
    assert networks.canonical("regnet_y_400mf") == "regnety_004"
    assert networks.canonical("mine:net") == "mine:net"
    with pytest.raises(errors.InputError, match="did you mean 'regnet_y_400mf'"):
        networks.create("regnet_y_400m", 7)
    monkeypatch.undo()
    assert not networks.ALIASES.keys() & networks.MODELS.keys()
    assert set(networks.ALIASES.values()) <= networks.MODELS.keys()


def test_importing_networks_does_not_import_data_and_checkpoint_libraries():
    heavy = ["tensorflow_datasets", "grain", "orbax", "cv2", "PIL", "ml_collections"]
    code = f"import sys, rrd_jax.networks; print([n for n in {heavy} if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize("name", _KINDS)
def test_every_kind_of_network_accepts_small_images_and_odd_sizes(name):
    for shape in ((33, 47, 1), (28, 28, 1)):
        outputs = networks.summarize(networks.create(name, 7), shape).outputs
        assert outputs.logits.shape == (1, 7)
        assert len(outputs.maps) == len(outputs.preactivations) >= 4


def test_images_that_become_empty_by_pooling_are_refused():
    for name in ("resnet8", "wrn_16_1", "vgg8", "shufflenetv2_cifar"):
        assert networks.summarize(networks.create(name, 5), (8, 8, 1)).outputs.logits.shape == (
            1,
            5,
        )
    with pytest.raises(errors.InputError, match="too small for this network: .* are 0x0"):
        networks.summarize(networks.create("vgg8", 5), (4, 4, 3))


def test_networks_with_a_7x7_stem_support_space_to_depth():
    network, deep = (networks.create("resnet18", 4, space_to_depth=deep) for deep in (False, True))
    variables = fresh.init(network, (48, 48, 3))
    images = np.random.default_rng(0).standard_normal((2, 48, 48, 3)).astype(np.float32)
    expected, actual = (jax.jit(n.apply)(variables, images).logits for n in (network, deep))
    assert golden.relative(actual, expected) < 1e-5
    assert len({networks.summarize(n, (48, 48, 3)).macs for n in (network, deep)}) == 1
    with pytest.raises(errors.InputError, match="'mobilenetv1' does not start with a 7x7"):
        networks.create("mobilenetv1", 4, space_to_depth=True)
