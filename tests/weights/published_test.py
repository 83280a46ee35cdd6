"""Names of networks and entries in timm and torchvision."""

import pytest

from rrd_jax.weights import entry_templates, published


@pytest.mark.parametrize("name", ["mobilenetv1", "mobilenetv2"])
def test_entry_names_of_timm_differ_and_can_be_converted_back(name):
    entries = dict.fromkeys(entry_templates.template(name), 0)
    renamed = published.rename_entries(entries, name, "timm")
    assert len(renamed) == len(entries)
    assert not renamed.keys() & entries.keys()
    to_native = published.renaming(name, "timm").to_native
    assert [to_native(entry) for entry in renamed] == list(entries)
    assert to_native("module.blocks.1.0.conv_pw.weight").startswith("module.")
    assert to_native("unknown.weight") == "unknown.weight"


def test_similar_names_of_timm_belong_to_other_networks():
    assert published.from_timm("resnet50.a1_in1k") == "resnet50"
    assert published.from_timm("mobilenetv2_100") == "mobilenetv2"
    assert published.from_timm("resnet50d") == published.from_timm("resnet8x4") == ""
