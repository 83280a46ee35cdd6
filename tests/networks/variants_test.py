"""Variants of networks, with other widths and depths."""

import re

import jax
import numpy as np
import pytest

from rrd_jax import errors, networks
from rrd_jax.config import parse
from rrd_jax.weights import from_torch, to_torch
from tests import fresh, launch

_VIT = "vit_tiny_patch16_224"
_SMALL = f"{_VIT}(depth=1,heads=2,patch=8,width=32)"


def test_the_name_of_a_variant_states_the_changed_fields():
    options = {"width": 32, "patch": 8, "depth": 1, "heads": 2, "mlp": 4}
    assert networks.with_options(_VIT, options) == _SMALL
    assert (
        networks.with_options(_SMALL, {"depth": 12, "patch": 16, "heads": 3}) == f"{_VIT}(width=32)"
    )
    assert networks.with_options("vit_b_16", {"depth": 12}) == "vit_base_patch16_224"
    assert networks.canonical("vit_b_16(depth=2)") == "vit_base_patch16_224(depth=2)"
    assert networks.with_options("resnet8", {"blocks": [2, 1, 1]}) == "resnet8(blocks=(2,1,1))"
    assert networks.create(_SMALL, 5) == networks.create(_VIT, 5, options=options)
    assert _SMALL in networks.MODELS
    assert _SMALL not in list(networks.MODELS)
    assert (networks.patch(_SMALL), networks.image_size(_SMALL)) == (8, 224)
    assert networks.family_of("vit_small_patch16_dinov3(depth=2)") is not None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (_VIT, {"widht": 32}, "unknown option 'a.widht' of network .*did you mean 'width'"),
        (_VIT, {"num_classes": 3}, "unknown option 'a.num_classes'"),
        (_VIT, {"depth": 1.5}, "option 'a.depth' of network .* is 1.5, but must be of type int"),
        (f"{_VIT}(depth=", {}, "unknown model"),
        (f"{_VIT}()", {}, "unknown model"),
        ("vit_tiny(depth=2)", {}, "unknown model .*did you mean 'vit_tiny_patch16_224'"),
        (f"{_VIT}(depht=2)", {}, "unknown option 'depht' .*did you mean 'depth'"),
    ],
)
def test_invalid_variants_are_refused(name, options, message):
    with pytest.raises(errors.InputError, match=message):
        networks.create(name, 5, options=options, prefix="a.")


def test_weights_of_a_variant_survive_a_round_trip():
    variables = fresh.init(networks.create(_SMALL, 5), (32, 32, 3))
    state_dict = to_torch(_SMALL, variables)
    jax.tree.map(np.testing.assert_array_equal, from_torch(_SMALL, state_dict), variables)
    with pytest.raises(errors.InputError, match="'timm' has no network equivalent to"):
        to_torch(_SMALL, variables, layout="timm")


def test_options_of_a_built_in_network_are_part_of_its_name():
    config = launch.digits("smoke,resnet8-resnet8,kd")
    config.student.options.widths = (4, 4, 8, 8)
    config.teacher.options.blocks = (2, 1, 1)
    plan = parse(config)
    student, teacher = plan.student.training.network, plan.teachers[0].network
    assert (student.model, dict(student.options)) == ("resnet8(widths=(4,4,8,8))", {})
    assert teacher.model == "resnet8(blocks=(2,1,1))"
    assert student.create(4).widths == (4, 4, 8, 8)
    config.student.options.depth = 3
    with pytest.raises(errors.InputError, match=re.escape("'student.options.depth' of network")):
        parse(config)
