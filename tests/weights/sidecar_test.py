"""Config files next to weights: network, classes and preprocessing."""

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


def test_configs_of_timm_are_read(tmp_path):
    config = {"architecture": "resnet18", "num_classes": 2, "pretrained_cfg": _IMAGES}
    assert _read(tmp_path, config) == sidecar.Sidecar("resnet18", 2, (), _IMAGENET)
    for names in (["a", "b, c"], {"0": "a", "1": "b, c"}):
        result = _read(tmp_path, {**config, "label_names": names}, "resnet18")
        assert result.class_names == ("a", "b, c")
    flat = {"architecture": "resnet18", "num_classes": 2, **_IMAGES, "crop_mode": "border"}
    assert _read(tmp_path, flat) == sidecar.Sidecar("resnet18", 2, (), None)
    other = {"architecture": "vit_base", "model_args": {"depth": 3}}
    assert _read(tmp_path, other) == sidecar.Sidecar()
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(errors.InputError, match="does not name a supported network; .* one of"):
        files.load(tmp_path, "")


def test_configs_of_transformers_are_read(tmp_path):
    config = {"model_type": "resnet", "id2label": {"0": "cat", "1": "dog"}, "num_channels": 3}
    processor = {"image_mean": _IMAGES["mean"], "image_std": _IMAGES["std"]}
    for sizes in (
        {"size": {"shortest_edge": 224}, "crop_pct": 0.875},
        {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}},
    ):
        result = _read(tmp_path, config, preprocessor_config=processor | sizes)
        assert result == sidecar.Sidecar("resnet50", 2, ("cat", "dog"), _IMAGENET)
    unnamed = {**config, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
    assert _read(tmp_path, unnamed, preprocessor_config={}) == sidecar.Sidecar("resnet50", 2)
    with pytest.raises(errors.InputError, match="hidden_act=gelu"):
        _read(tmp_path, {**config, "hidden_act": "gelu"})
    # Configs of other programs are ignored.
    for content in ("", "[1", "[]", "3", '{"data": {}}'):
        (tmp_path / "config.json").write_text(content)
        assert sidecar.read(tmp_path / "f.pth") == sidecar.Sidecar()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_names": ["a"]}, "names 1 classes of 2"),
        ({"label_names": "ab"}, "damaged"),
        ({"label_names": {"1": "a", "2": "b"}}, "damaged"),
        ({"num_classes": -2}, "num_classes is -2"),
        ({"pretrained_cfg": {**_IMAGES, "mean": [0.5]}}, "must be a tuple of 3 numbers"),
        ({"pretrained_cfg": {**_IMAGES, "std": [58.4, 57.1, 57.4]}}, "config.json: std.* is 58.4"),
        ({"pretrained_cfg": {**_IMAGES, "input_size": 224}}, "damaged"),
        ({"pretrained_cfg": 3}, "damaged"),
        ({"model_args": {"output_stride": 8}}, "with output_stride=8"),
        ({"architecture": "seresnet18"}, "holds timm's seresnet18.*, not resnet18"),
    ],
)
def test_an_invalid_config_is_refused_in_one_line(change, message, tmp_path):
    config = {"architecture": "resnet18", "num_classes": 2, "pretrained_cfg": _IMAGES}
    with pytest.raises(errors.InputError, match=message) as caught:
        _read(tmp_path, config | change, "resnet18")
    assert "\n" not in str(caught.value)


def test_preprocessing_survives_a_round_trip_through_the_config_of_timm(tmp_path):
    for size in (8, 64, 299):
        for resize in (None, *range(size, 3 * size, 7)):
            expected = Preprocessing(size, 1, (0.3,), (0.2,), resize, "bicubic")
            config = {"architecture": "resnet18", "pretrained_cfg": sidecar.to_timm(expected)}
            assert _read(tmp_path, config).preprocessing == expected
