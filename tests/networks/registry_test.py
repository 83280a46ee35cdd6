"""Networks by name: which there are, and what images they take."""

import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from rrd_jax import errors, networks
from rrd_jax.networks import __main__ as program
from rrd_jax.networks import (
    convmixer,
    convnext,
    inverted,
    mobilenet,
    regnet,
    repvgg,
    resnet,
    shufflenet,
    vgg,
    vit,
    wrn,
)
from rrd_jax.terminal import tables
from tests import fresh, golden
from tests.networks import modern

# One of each kind of block and stem.
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


def test_an_unknown_name_lists_the_known():
    with pytest.raises(errors.InputError, match="did you mean 'resnet8x4'.*known: resnet8, "):
        networks.create("resnet8x5", 10)
    with pytest.raises(errors.InputError, match="num_classes is -1"):
        networks.create("resnet8", -1)


def test_no_family_takes_the_name_of_another():
    tables = [family.CIFAR for family in (resnet, wrn, vgg, mobilenet, shufflenet, vit, convmixer)]
    families = (resnet, mobilenet, shufflenet, convnext, inverted, regnet, repvgg, vit, convmixer)
    tables += [family.IMAGENET for family in families]
    assert len(networks.MODELS) == sum(len(table) for table in tables)


def test_the_table_has_a_row_for_each_network(monkeypatch):
    few = {name: networks.MODELS[name] for name in ("resnet8", "vgg8", "resnet18")}
    monkeypatch.setattr(networks, "MODELS", few)
    rows = tables.markdown(*program.table()).split("\n")[2:]
    assert [row.split()[1] for row in rows] == list(few)
    assert re.match(r"\| resnet8 +\| 83,892 +\| 12,507,392 +\| 16@32 16@32 32@16 64@8", rows[0])


def test_other_libraries_names_are_aliases(monkeypatch):
    few = {name: networks.MODELS[name] for name in ("mobilenetv2", "regnety_004")}
    monkeypatch.setattr(networks, "MODELS", few)
    (row,) = program.table(["regnet_y*"])[1]
    assert row[0] == "regnety_004 = regnet_y_400mf"
    assert [row[0] for row in program.table(["mobilenetv2*"])[1]] == [
        "mobilenetv2 = mobilenet_v2 = mobilenetv2_100"
    ]
    assert networks.create("regnet_y_400mf", 7) == networks.create("regnety_004", 7)
    assert networks.canonical("regnet_y_400mf") == "regnety_004"
    assert networks.canonical("mine:net") == "mine:net"
    with pytest.raises(errors.InputError, match="did you mean 'regnet_y_400mf'"):
        networks.create("regnet_y_400m", 7)


def test_no_alias_is_a_name():
    assert not networks.ALIASES.keys() & networks.MODELS.keys()
    assert set(networks.ALIASES.values()) <= networks.MODELS.keys()


def test_networks_are_imported_without_what_reads_data_and_files():
    heavy = ["tensorflow_datasets", "grain", "orbax", "cv2", "PIL", "ml_collections"]
    code = f"import sys, rrd_jax.networks; print([n for n in {heavy} if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize("name", fresh.all_but_quick_are_long(modern.older(), _KINDS))
def test_every_network_takes_small_and_odd_images(name):
    outputs = networks.summarize(networks.create(name, 7), (33, 47, 1)).outputs
    assert outputs.logits.shape == (1, 7)
    assert len(outputs.maps) == len(outputs.preactivations) >= 4


@pytest.mark.parametrize("family", ["resnet8", "wrn_16_1", "vgg8", "shufflenetv2_cifar"])
@pytest.mark.parametrize(
    ("size", "channels"),
    [(8, 1), *(pytest.param(*images, marks=pytest.mark.long) for images in ((28, 1), (64, 3)))],
)
def test_other_image_sizes_and_class_counts(family, size, channels):
    network = networks.create(family, 5)
    variables = fresh.init(network, (size, size, channels))
    images = np.ones((2, size, size, channels), np.float32)
    logits = jax.jit(network.apply)(variables, images).logits
    assert logits.shape == (2, 5)
    assert np.isfinite(logits).all()


def test_images_that_pooling_uses_up_are_refused():
    with pytest.raises(errors.InputError, match="too small for this network: 0x0 is left"):
        networks.summarize(networks.create("vgg8", 5), (4, 4, 3))


def test_networks_with_a_stem_of_seven_pixels_take_space_to_depth():
    network, deep = (networks.create("resnet18", 4, space_to_depth=deep) for deep in (False, True))
    variables = fresh.init(network, (48, 48, 3))
    images = np.random.default_rng(0).standard_normal((2, 48, 48, 3)).astype(np.float32)
    wanted, found = jax.jit(lambda *inputs: [n.apply(*inputs).logits for n in (network, deep)])(
        variables, images
    )
    assert golden.relative(found, wanted) < 1e-5
    assert (
        networks.summarize(deep, (48, 48, 3)).macs == networks.summarize(network, (48, 48, 3)).macs
    )
    with pytest.raises(errors.InputError, match="a 7x7 convolution, not for 'mobilenetv1'"):
        networks.create("mobilenetv1", 4, space_to_depth=True)
