"""Folders that transformers writes: outputs and entries compared with transformers."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from rrd_jax import errors, networks
from rrd_jax.weights import files, sizes, to_torch
from tests import golden
from tests.weights import peers
from tests.weights.small import small_networks

pytestmark = pytest.mark.usefixtures("small_networks")
__all__ = ["small_networks"]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

_SIDE = 32
_VIT = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"intermediate_size": 64, "image_size": _SIDE, "patch_size": 8},
}
_LABELS = {"num_labels": 5}
_TEXT = {
    **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"intermediate_size": 32, "vocab_size": 64, "max_position_embeddings": 8},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
_STAGES = {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}


def _clip(**options):
    return transformers.CLIPVisionConfig(**_VIT, projection_dim=12, **options)


def _both_towers(config, **vision):
    return config(vision_config=_VIT | vision, text_config=_TEXT, projection_dim=12)


def _siglip():
    return transformers.SiglipConfig(vision_config=_VIT, text_config=_TEXT, **_LABELS)


def _build(name):
    t = transformers
    registers = {"num_register_tokens": 4}
    regnet = {"hidden_sizes": [16, 40], "depths": [1, 3], "groups_width": 8}
    resnet = {"depths": [2] * 4, "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
    return {
        "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**_VIT, **_LABELS)),
        "vit alone": lambda: t.ViTModel(t.ViTConfig(**_VIT)),
        "deit": lambda: t.DeiTForImageClassificationWithTeacher(t.DeiTConfig(**_VIT, **_LABELS)),
        "dino": lambda: t.Dinov2Model(t.Dinov2Config(**_VIT)),
        "dino giant": lambda: t.Dinov2Model(t.Dinov2Config(**_VIT, use_swiglu_ffn=True)),
        "dino registers": lambda: t.Dinov2WithRegistersModel(
            t.Dinov2WithRegistersConfig(**_VIT, **registers)
        ),
        "dino classifier": lambda: t.Dinov2ForImageClassification(
            t.Dinov2Config(**_VIT, **_LABELS)
        ),
        "clip": lambda: t.CLIPModel(_both_towers(t.CLIPConfig)),
        "clip tower": lambda: t.CLIPVisionModel(_clip(hidden_act="gelu")),
        "clip projection": lambda: t.CLIPVisionModelWithProjection(_clip()),
        "clip classifier": lambda: t.CLIPForImageClassification(_both_towers(t.CLIPConfig)),
        "siglip": lambda: t.SiglipModel(_siglip()),
        "siglip tower": lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**_VIT)),
        "convnext": lambda: t.ConvNextForImageClassification(
            t.ConvNextConfig(**_STAGES, **_LABELS)
        ),
        "convnextv2": lambda: t.ConvNextV2ForImageClassification(
            t.ConvNextV2Config(**_STAGES, **_LABELS)
        ),
        "regnet": lambda: t.RegNetForImageClassification(t.RegNetConfig(**regnet, **_LABELS)),
        "resnet": lambda: t.ResNetForImageClassification(t.ResNetConfig(**resnet, **_LABELS)),
    }[name]()


_KINDS = {
    "vit": "small_vit",
    "vit alone": "small_vit",
    "deit": "small_deit",
    "dino": "small_dino",
    "dino giant": "small_dino_giant",
    "dino registers": "small_dino_reg",
    "dino classifier": "small_dino",
    "clip": "small_clip_quickgelu",
    "clip tower": "small_clip",
    "clip projection": "small_clip_quickgelu",
    "clip classifier": "small_clip_quickgelu",
    "siglip": "small_siglip",
    "siglip tower": "small_siglip",
    "convnext": "small_convnext",
    "convnextv2": "small_convnextv2",
    "regnet": "small_regnet",
    "resnet": "resnet18",
}


def _save(kind, folder, **options):
    network = peers.randomize(_build(kind))
    network.save_pretrained(folder, **options)
    return network


def _peer_outputs(network, images, **options):
    """Returns embedding, patches, and logits, projection or None, computed by transformers."""
    images = peers.to_torch(images)
    with torch.inference_mode():
        vision = getattr(network, "vision_model", network)
        kind = type(network).__name__
        if kind.startswith(("CLIP", "Siglip")):
            vision_outputs = vision(images, **options)
            pooled, tokens = vision_outputs.pooler_output, vision_outputs.last_hidden_state
            if kind.startswith("CLIP"):
                tower = getattr(vision, "vision_model", vision)
                # Transformers normalizes the class token only, timm all tokens.
                tokens = tower.post_layernorm(tokens[:, 1:])
            project = getattr(network, "visual_projection", None)
            return pooled, tokens, None if project is None else project(pooled)
        body = getattr(network, network.base_model_prefix, network)
        body_outputs = body(images, **options)
        states = body_outputs.last_hidden_state
        if kind.startswith("DeiT"):
            return states[:, :2].mean(1), states[:, 2:], network(images).logits
        if kind.startswith(("ViT", "Dinov2")):
            count = 1 + getattr(network.config, "num_register_tokens", 0)
            embedding, patches = states[:, 0], states[:, count:]
        else:
            embedding = body_outputs.pooler_output.flatten(1)
            patches = states.flatten(2).transpose(1, 2)
        has_classifier = hasattr(network, "classifier") and not kind.startswith("Dinov2")
        return embedding, patches, network(images, **options).logits if has_classifier else None


def _outputs(name, variables, images):
    """Returns embedding, patches [B, N, D] and logits; zeros replace a missing classifier."""
    network = networks.create(name, sizes(name, variables)[0] or 1)
    shapes = networks.summarize(network, images.shape[1:]).variables
    params = shapes["params"] | variables["params"]
    params = jax.tree.map(
        lambda leaf: leaf if hasattr(leaf, "flags") else np.zeros(leaf.shape, leaf.dtype), params
    )
    outputs = jax.jit(network.apply)({**variables, "params": params}, images)
    patches = outputs.patches.reshape(len(images), -1, outputs.patches.shape[-1])
    return outputs.embedding, patches, outputs.logits


def _images(side=_SIDE):
    return np.random.default_rng(side).standard_normal((2, side, side, 3), np.float32)


_HEADLESS = ("vit alone", "clip tower", "clip classifier")


def _has_head(kind):
    return kind not in _HEADLESS and not kind.startswith(("dino", "siglip"))


def _compare(kind, peer, variables, images, **options):
    pairs = zip(
        _outputs(_KINDS[kind], variables, images),
        _peer_outputs(peer, images, **options),
        strict=True,
    )
    for actual, expected in pairs:
        if expected is not None:
            assert golden.relative(actual, expected.numpy()) < 1e-5


@pytest.mark.parametrize("kind", _KINDS)
def test_outputs_and_entries_equal_transformers(kind, tmp_path):
    peer = _save(kind, tmp_path, max_shard_size="20KB" if kind in ("vit", "clip") else "1GB")
    is_sharded = (tmp_path / "model.safetensors.index.json").is_file()
    assert is_sharded == (kind in ("vit", "clip"))
    path, name = f"hf:{tmp_path}", _KINDS[kind]
    assert files.network_of(path) == name
    variables, meta = files.load(path, "", headless=True)
    assert meta["model"] == name
    assert bool({"head", "fc"} & variables["params"].keys()) == _has_head(kind)
    assert meta["num_classes"] == ((12 if "clip" in kind else 5) if _has_head(kind) else 0)
    _compare(kind, peer, variables, _images())
    if not _has_head(kind):
        with pytest.raises(errors.InputError, match="classifier"):
            files.load(path, "")
    entries = _entries(tmp_path)
    inner = {"dino classifier": "dinov2.", "clip classifier": "vision_model."}
    prefix = "vision_model." if kind == "siglip" else inner.get(kind, "")
    for entry, value in to_torch(name, variables, layout="transformers").items():
        expected = entries.pop(prefix + entry)
        if "mask_token" in entry:
            # The mask token is dropped.
            continue
        if kind == "dino registers" and entry.endswith(("cls_token", "position_embeddings")):
            # The class token includes its position embedding.
            continue
        np.testing.assert_array_equal(value, expected, entry)
    if "clip" not in kind and "siglip" not in kind and kind != "dino classifier":
        assert not [entry for entry in entries if "pooler" not in entry]


def _entries(folder):
    """Reads the entries of all weight files in a folder."""
    entries = {}
    for file in folder.glob("*.safetensors"):
        entries |= safetensors.numpy.load_file(file)
    return entries


@pytest.mark.parametrize("kind", ["convnext", "regnet"])
def test_outputs_at_another_image_size_equal_transformers(kind, tmp_path):
    peer = _save(kind, tmp_path)
    _compare(kind, peer, files.load(f"hf:{tmp_path}", "")[0], _images(48))


def _resample(positions, side, extra_tokens):
    """Resamples position embeddings [1, N, D] as transformers does: bicubic with a = -0.75."""
    rest, squares = np.split(np.asarray(positions), [extra_tokens], axis=1)
    grid = round(squares.shape[1] ** 0.5)
    squares = torch.from_numpy(squares.reshape(1, grid, grid, -1).copy()).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(squares, (side // 8,) * 2, mode="bicubic")
    expected = expected.permute(0, 2, 3, 1).reshape(1, -1, rest.shape[2])
    return np.concatenate([rest, expected.numpy()], axis=1)


@pytest.mark.parametrize(
    ("kind", "extra_tokens"), [("vit", 1), ("clip", 1), ("siglip", 0), ("dino", 1)]
)
def test_only_the_resampling_of_positions_differs_at_another_image_size(
    kind, extra_tokens, tmp_path
):
    peer, images = _save(kind, tmp_path), _images(48)
    variables, _ = files.load(f"hf:{tmp_path}", "", headless=True)
    params = variables["params"]
    positions = _resample(params["pos_embed"], 48, extra_tokens)
    variables["params"] = {**params, "pos_embed": positions}
    options = {} if kind == "dino" else {"interpolate_pos_encoding": True}
    _compare(kind, peer, variables, images, **options)


@pytest.mark.long
def test_mobilenetv2_of_transformers_survives_a_round_trip(tmp_path):
    config = transformers.MobileNetV2Config(
        tf_padding=False, layer_norm_eps=1e-5, image_size=64, **_LABELS
    )
    peer = peers.randomize(transformers.MobileNetV2ForImageClassification(config))
    peer.save_pretrained(tmp_path)
    images = _images(64)
    variables, meta = files.load(f"hf:{tmp_path}", "")
    assert meta["model"] == "mobilenetv2"
    outputs = jax.jit(networks.create("mobilenetv2", 5).apply)(variables, images)
    with torch.inference_mode():
        expected = peer(peers.to_torch(images)).logits
    assert golden.relative(outputs.logits, expected.numpy()) < 1e-5
    restored = to_torch("mobilenetv2", variables, layout="transformers")
    entries = _entries(tmp_path)
    assert restored.keys() == entries.keys()
    for entry, value in entries.items():
        np.testing.assert_array_equal(restored[entry], value, entry)
