import pytest

from rrd_jax.weights import entry_templates, published


@pytest.mark.parametrize("name", ["mobilenetv1", "mobilenetv2"])
def test_timms_names_are_others_and_lead_back(name):
    entries = dict.fromkeys(entry_templates.template(name), 0)
    theirs = published.respell(entries, name, "timm")
    assert len(theirs) == len(entries)
    assert not theirs.keys() & entries.keys()
    back = published.renaming(name, "timm").to_ours
    assert [back(entry) for entry in theirs] == list(entries)
    assert back("module.blocks.1.0.conv_pw.weight").startswith("module.")
    assert back("stranger.weight") == "stranger.weight"


def test_most_networks_have_the_same_names_or_none():
    assert published.renaming("resnet18", "timm") is None
    assert published.respell({"fc.bias": 0}, "resnet18", "timm") == {"fc.bias": 0}
    assert published.of("resnet8x4") == published.Published()
    assert published.from_timm("resnet50.a1_in1k") == "resnet50"
    assert published.from_timm("mobilenetv2_100") == "mobilenetv2"
    assert published.from_timm("resnet50d") == published.from_timm("resnet8x4") == ""
