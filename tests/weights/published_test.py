import pytest

from rrd_jax.weights import entry_templates, published


@pytest.mark.parametrize("name", ["mobilenetv1", "mobilenetv2"])
def test_timms_names_are_others_and_lead_back(name):
    entries = dict.fromkeys(entry_templates.template(name), 0)
    theirs = published.rename_entries(entries, name, "timm")
    assert len(theirs) == len(entries)
    assert not theirs.keys() & entries.keys()
    back = published.renaming(name, "timm").to_native
    assert [back(entry) for entry in theirs] == list(entries)
    assert back("module.blocks.1.0.conv_pw.weight").startswith("module.")
    assert back("stranger.weight") == "stranger.weight"


def test_similar_names_of_timm_are_other_networks():
    assert published.from_timm("resnet50.a1_in1k") == "resnet50"
    assert published.from_timm("mobilenetv2_100") == "mobilenetv2"
    assert published.from_timm("resnet50d") == published.from_timm("resnet8x4") == ""
