import json

import pytest

from rrd_jax import errors
from rrd_jax.data.model_info import Preprocessing
from rrd_jax.weights import files, sidecar

_IMAGES = {
    "input_size": [3, 224, 224],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "crop_pct": 0.875,
}
_IMAGENET = Preprocessing(224, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 256)


def _read(tmp_path, config, model="", **others):
    for name, content in {"config": config, **others}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return sidecar.read(tmp_path / "model.safetensors", model)


def test_of_timms_config(tmp_path):
    config = {"architecture": "resnet18", "num_classes": 2, "pretrained_cfg": _IMAGES}
    assert _read(tmp_path, config) == sidecar.Sidecar("resnet18", 2, (), _IMAGENET)
    for names in (["a", "b, c"], {"0": "a", "1": "b, c"}):
        found = _read(tmp_path, {**config, "label_names": names}, "resnet18")
        assert found.class_names == ("a", "b, c")
    flat = {"architecture": "resnet18", "num_classes": 2, **_IMAGES, "crop_mode": "border"}
    assert _read(tmp_path, flat) == sidecar.Sidecar("resnet18", 2, (), None)
    other = {"architecture": "vit_base", "model_args": {"depth": 3}}
    assert _read(tmp_path, other) == sidecar.Sidecar()
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(errors.InputError, match="does not name a supported network; .* one of"):
        files.load(tmp_path, "")


def test_of_hugging_faces_configs(tmp_path):
    config = {"model_type": "resnet", "id2label": {"0": "cat", "1": "dog"}, "num_channels": 3}
    processor = {"image_mean": _IMAGES["mean"], "image_std": _IMAGES["std"]}
    for sizes in (
        {"size": {"shortest_edge": 224}, "crop_pct": 0.875},
        {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}},
    ):
        found = _read(tmp_path, config, preprocessor_config=processor | sizes)
        assert found == sidecar.Sidecar("resnet50", 2, ("cat", "dog"), _IMAGENET)
    unnamed = {**config, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
    assert _read(tmp_path, unnamed, preprocessor_config={}) == sidecar.Sidecar("resnet50", 2)
    with pytest.raises(errors.InputError, match="hidden_act=gelu"):
        _read(tmp_path, {**config, "hidden_act": "gelu"})
    for content in ("", "[1", "[]", "3", '{"data": {}}'):  # a config of something else
        (tmp_path / "config.json").write_text(content)
        assert sidecar.read(tmp_path / "f.pth") == sidecar.Sidecar()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label_names": ["a"]}, "names 1 classes of 2"),
        ({"label_names": "ab"}, "damaged"),
        ({"label_names": {"1": "a", "2": "b"}}, "damaged"),
        ({"num_classes": -2}, "num_classes is -2"),
        ({"pretrained_cfg": {**_IMAGES, "mean": [0.5]}}, "must be 3 numbers"),
        ({"pretrained_cfg": {**_IMAGES, "input_size": 224}}, "damaged"),
        ({"pretrained_cfg": 3}, "damaged"),
        ({"model_args": {"output_stride": 8}}, "with output_stride=8"),
        ({"architecture": "seresnet18"}, "holds timm's seresnet18.*, not resnet18"),
    ],
)
def test_what_cannot_be_is_a_line(change, said, tmp_path):
    config = {"architecture": "resnet18", "num_classes": 2, "pretrained_cfg": _IMAGES}
    with pytest.raises(errors.InputError, match=said) as caught:
        _read(tmp_path, config | change, "resnet18")
    assert "\n" not in str(caught.value)


def test_images_come_back_from_timms_words(tmp_path):
    for size in (8, 64, 299):
        for resize in (None, *range(size, 3 * size, 7)):
            wanted = Preprocessing(size, 1, (0.3,), (0.2,), resize, "bicubic")
            config = {"architecture": "resnet18", "pretrained_cfg": sidecar.to_timm(wanted)}
            assert _read(tmp_path, config).preprocessing == wanted
