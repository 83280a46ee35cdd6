"""Folders in the layout of transformers, written and read with safetensors alone."""

import json
import pickle
import zipfile

import chex
import numpy as np
import pytest
import safetensors.numpy

import rrd_jax
from configs import digits
from rrd_jax import config as configs
from rrd_jax import errors, networks
from rrd_jax.data.model_info import Preprocessing
from rrd_jax.weights import files, from_torch, sidecar, to_torch
from tests.weights.small import small_networks
from tests.weights.state_dicts_test import random_variables, three_networks

pytestmark = pytest.mark.usefixtures("small_networks")
__all__ = ["small_networks", "three_networks"]
_CONFIG = {
    **{"model_type": "vit", "architectures": ["ViTForImageClassification"]},
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"intermediate_size": 64, "image_size": 32, "patch_size": 8},
    "id2label": {"0": "cat", "1": "dog", "2": "eel"},
}
_PROCESSOR = {
    **{"do_resize": True, "size": {"height": 32, "width": 32}, "resample": 2},
    **{"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True},
    **{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.4, 0.5]},
}


def _write(folder, entries, config, processor=_PROCESSOR, shards=1):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    if shards == 1:
        safetensors.numpy.save_file(entries, folder / "model.safetensors")
        return f"hf:{folder}"
    names = sorted(entries)
    files_by_entry = {
        n: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, n in enumerate(names)
    }
    for file_name in set(files_by_entry.values()):
        part = {name: entries[name] for name in names if files_by_entry[name] == file_name}
        safetensors.numpy.save_file(part, folder / file_name)
    index = {"metadata": {"total_size": 0}, "weight_map": files_by_entry}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return f"hf:{folder}"


def _entries(name="small_vit"):
    variables = random_variables(name, 3, (32, 32, 3))
    return variables, to_torch(name, variables, layout="transformers")


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_is_loaded_with_class_names_and_preprocessing(shards, tmp_path):
    variables, entries = _entries()
    assert "vit.encoder.layer.1.attention.attention.key.weight" in entries
    path = _write(tmp_path / "hub", entries, _CONFIG, shards=shards)
    network = rrd_jax.load(path)
    assert (network.name, network.num_classes) == ("small_vit", 3)
    assert network.about.class_names == ("cat", "dog", "eel")
    assert network.about.preprocessing == Preprocessing(32, 3, (0.5,) * 3, (0.5, 0.4, 0.5))
    chex.assert_trees_all_equal(network.variables["params"], variables["params"])
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    normalized = (images / np.float32(255) - 0.5) / np.array([0.5, 0.4, 0.5], np.float32)
    expected = networks.create("small_vit", 3).apply(variables, normalized.astype(np.float32))
    np.testing.assert_allclose(network(images).logits, expected.logits, rtol=1e-4)
    assert len(network.predict(images).probabilities) == 2
    if shards > 1:
        (tmp_path / "hub" / "model-00002-of-00003.safetensors").unlink()
        with pytest.raises(errors.InputError, match="names 3 files, but model-00002.* is missing"):
            rrd_jax.load(path)


def test_checkpoints_determine_the_networks_that_a_config_leaves_empty(tmp_path):
    path = _write(tmp_path / "hub", _entries()[1], _CONFIG)
    config = digits.get_config("resnet8-resnet8,kd")
    config.teacher.model = config.student.model = ""
    config.teacher.checkpoint = config.student.checkpoint = path
    config.data.image_size = 32
    job = configs.parse(config)
    assert job.teachers[0].network.model == "small_vit"
    assert job.student.training.network.model == "small_vit"
    # The config of the user is not modified.
    assert config.teacher.model == ""


_CLIP = {"patch_size": 32, "hidden_size": 768, "intermediate_size": 3072}
_ATTO = [40, 80, 160, 320]


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "vit"}, "vit_base_patch16_224"),
        ({"model_type": "vit", "image_size": 384}, "vit_base_patch16_384"),
        ({"model_type": "deit"}, "deit_base_distilled_patch16_224"),
        (
            {
                **{"model_type": "dinov2", "hidden_size": 1536, "num_hidden_layers": 40},
                **{"num_attention_heads": 24, "use_swiglu_ffn": True},
            },
            "vit_giant_patch14_dinov2",
        ),
        ({"model_type": "dinov2_with_registers"}, "vit_base_patch14_reg4_dinov2"),
        ({"model_type": "clip", "vision_config": _CLIP}, "vit_base_patch32_clip_quickgelu_224"),
        (
            {"model_type": "clip", "vision_config": {**_CLIP, "hidden_act": "gelu"}},
            "vit_base_patch32_clip_224",
        ),
        ({"model_type": "siglip"}, "vit_base_patch16_siglip_gelutanh_224"),
        (
            {**{"model_type": "convnextv2", "depths": [2, 2, 6, 2]}, "hidden_sizes": _ATTO},
            "convnextv2_atto",
        ),
        (
            {
                **{"model_type": "regnet", "hidden_sizes": [48, 104, 208, 440]},
                **{"depths": [1, 3, 6, 6], "groups_width": 8},
            },
            "regnety_004",
        ),
        (
            {
                **{"model_type": "resnet", "layer_type": "basic", "depths": [2, 2, 2, 2]},
                "hidden_sizes": [64, 128, 256, 512],
            },
            "resnet18",
        ),
        (
            {"model_type": "mobilenet_v2", "tf_padding": False, "layer_norm_eps": 1e-5},
            "mobilenetv2",
        ),
    ],
)
def test_the_sizes_in_a_config_determine_the_network(config, name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert sidecar.read(tmp_path / "model.safetensors").model == name
    assert sidecar.read(tmp_path / "model.safetensors", name).model == name
    with pytest.raises(errors.InputError, match=f"holds {name} according to .* not resnet8"):
        sidecar.read(tmp_path / "model.safetensors", "resnet8")


_ADAPTER = {"base_model.model.vit.encoder.layer.0.attention.q.lora_A.weight": np.ones((2, 3))}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no config.json"),
        ({"config": {"architecture": "resnet18"}}, "has no model_type"),
        (
            {"config": {"model_type": "cvt"}},
            "model_type 'cvt' is not supported.*: vit, deit",
        ),
        ({"config": {"model_type": "clip_text_model"}}, "a text tower.*name the folder of the who"),
        ({"config": _CONFIG}, "holds no weights; add one of model.safetensors, "),
        (
            {"config": {**_CONFIG, "hidden_size": 33}},
            "a ViT with hidden_size=33, num_hidden_layers=2, .* no network of rrd_jax has; the"
            " closest is small_vit with hidden_size=32",
        ),
        (
            {"config": {"model_type": "convnext", "hidden_sizes": [8, -1], "depths": [1, 1]}},
            "a ConvNeXt with hidden_sizes=8--1, depths=1-1, which no network",
        ),
        (
            {"config": {"model_type": "swin", "num_heads": [5, 6, 12, 24]}},
            "a Swin with embed_dim=96, .* num_heads=5-6-12-24, .* which no network",
        ),
        ({"config": {**_CONFIG, "layer_norm_eps": 1e-3}}, "layer_norm_eps=0.001.* have 1e-06"),
        ({"config": {"model_type": "mobilenet_v2"}}, "with tf_padding=True"),
        (
            {"config": {"model_type": "resnet", "downsample_in_first_stage": True}},
            "downsample_in_first_stage=True",
        ),
        ({"model_index": {"_class_name": "StableDiffusionPipeline"}}, "a diffusers pipeline"),
        ({"adapter_config": {"r": 8}}, r"a LoRA adapter.*merge_and_unload"),
    ],
)
def test_invalid_folders_are_refused_in_one_line(content, message, tmp_path):
    for name, value in content.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    with pytest.raises(errors.InputError, match=message) as caught:
        files.load(f"hf:{tmp_path}", "")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_ADAPTER, "a LoRA adapter"),
        ({"conv_in.weight": np.ones(2), "down_blocks.0.bias": np.ones(2)}, "a diffusion model"),
        ({"text_model.embeddings.token_embedding.weight": np.ones(2)}, "a text tower"),
    ],
)
def test_entries_of_networks_without_images_are_refused(content, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        from_torch("small_vit", content)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("three_networks")
def test_errors_for_another_size_name_the_matching_network(tmp_path):
    _, entries = _entries("small_deit")
    with pytest.raises(errors.InputError, match="it fits small_deit"):
        from_torch("small_vit", entries)
    path = _write(tmp_path / "hub", entries, {**_CONFIG, "model_type": "deit"})
    with pytest.raises(errors.InputError, match="holds small_deit according to its config.json"):
        files.load(path, "small_vit")


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"size": 64, "resample": 3}, (64, None, 0.5)),
        ({"size": 64, "crop_size": 48, "do_center_crop": True}, (48, 64, 0.5)),
        ({"size": 64, "crop_pct": 0.5}, (64, 128, 0.5)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, None, 0.5)),
        ({"rescale_factor": 1 / 510}, (32, None, 1.0)),
        ({"do_rescale": False, "image_mean": [127.5] * 3}, (32, None, 0.5)),
        ({"do_normalize": False}, (32, None, 0.0)),
    ],
)
def test_preprocessing_is_read_from_the_processor(processor, expected, tmp_path):
    _write(tmp_path, {}, _CONFIG, {**_PROCESSOR, **processor})
    preprocessing = sidecar.read(tmp_path / "model.safetensors").preprocessing
    assert (preprocessing.image_size, preprocessing.resize) == expected[:2]
    np.testing.assert_allclose(preprocessing.mean[0], expected[2], rtol=1e-6)
    cubic = processor.get("resample") == 3
    assert preprocessing.interpolation == ("bicubic" if cubic else "bilinear")


class _Malicious:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


def test_malicious_and_damaged_torchscript_is_refused_in_one_line(tmp_path):
    path, message = tmp_path / "x.pt", r"TorchScript.*torch.jit.load|holds no tensors"
    intact = pickle.dumps({"a": 1})
    for content in (pickle.dumps(_Malicious()), intact[:-3], b"", pickle.dumps([1])):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/constants.pkl", b"")
            archive.writestr("x/data.pkl", content)
        with pytest.raises(errors.InputError, match=message) as caught:
            files.load(path, "small_vit")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["resnet18", "small_deit", "small_clip", "small_regnet"])
def test_entries_in_the_layout_of_transformers_survive_a_round_trip(name):
    variables = random_variables(name, 3, (32, 32, 3))
    if name == "small_clip":
        # CLIP's projection has no bias.
        head = variables["params"]["head"]
        head["bias"] = np.zeros_like(head["bias"])
    entries = to_torch(name, variables, layout="transformers")
    assert entries.keys().isdisjoint(to_torch(name, variables))
    restored = from_torch(name, {"model": entries})
    chex.assert_trees_all_equal(restored, {"batch_stats": {}, **variables})
    with pytest.raises(errors.InputError, match="dinov2"):
        to_torch(name, variables, layout="dinov2")
