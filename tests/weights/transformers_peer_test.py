"""Folders as transformers writes them, installed: the same numbers, and the same entries back."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from rrd_jax import errors, networks
from rrd_jax.weights import files, sizes, to_torch
from tests import golden
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


def _clip(**more):
    return transformers.CLIPVisionConfig(**_VIT, projection_dim=12, **more)


def _whole(config, **vision):
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
        "clip": lambda: t.CLIPModel(_whole(t.CLIPConfig)),
        "clip tower": lambda: t.CLIPVisionModel(_clip(hidden_act="gelu")),
        "clip projection": lambda: t.CLIPVisionModelWithProjection(_clip()),
        "clip classifier": lambda: t.CLIPForImageClassification(_whole(t.CLIPConfig)),
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


def _filled(network):
    """With weights that are far from where they start, and variances above 0."""
    draw = torch.Generator().manual_seed(7)
    for name, value in network.state_dict().items():
        if not value.dtype.is_floating_point:
            continue
        noise = torch.randn(value.shape, generator=draw)
        if name.endswith("running_var"):
            value.copy_(0.5 + noise.abs())
        elif name.endswith("norm.weight") or value.ndim < 2:
            value.copy_(0.5 + 0.3 * noise)
        else:
            value.copy_(noise / max(1, value[0].numel()) ** 0.5)
    return network.eval()


def _made(kind, folder, **options):
    network = _filled(_build(kind))
    network.save_pretrained(folder, **options)
    return network


def _theirs(network, images, **options):
    """Embedding, and logits or what is projected; None for what it lacks."""
    images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        vision = getattr(network, "vision_model", network)
        kind = type(network).__name__
        if kind.startswith(("CLIP", "Siglip")):
            pooled = vision(images, **options).pooler_output
            project = getattr(network, "visual_projection", None)
            return pooled, None if project is None else project(pooled)
        body = getattr(network, network.base_model_prefix, network)
        found = body(images, **options)
        if kind.startswith("DeiT"):
            tokens = found.last_hidden_state[:, :2].mean(1)
            return tokens, network(images).logits
        if kind.startswith(("ViT", "Dinov2")):
            embedding = found.last_hidden_state[:, 0]
        else:
            embedding = found.pooler_output.flatten(1)
        is_whole = hasattr(network, "classifier") and not kind.startswith("Dinov2")
        return embedding, network(images, **options).logits if is_whole else None


def _ours(name, variables, images):
    """Embedding and logits; the classifier that is missing is taken for zeros."""
    network = networks.create(name, sizes(name, variables)[0] or 1)
    shapes = networks.summarize(network, images.shape[1:]).variables
    params = shapes["params"] | variables["params"]
    params = jax.tree.map(
        lambda leaf: leaf if hasattr(leaf, "flags") else np.zeros(leaf.shape, leaf.dtype), params
    )
    outputs = jax.jit(network.apply)({**variables, "params": params}, images)
    return outputs.embedding, outputs.logits


def _images(side=_SIDE):
    return np.random.default_rng(side).standard_normal((2, side, side, 3), np.float32)


_HEADLESS = ("vit alone", "clip tower", "clip classifier")


def _has_head(kind):
    return kind not in _HEADLESS and not kind.startswith(("dino", "siglip"))


def _compare(kind, theirs, variables, images, **options):
    pairs = zip(
        _ours(_KINDS[kind], variables, images), _theirs(theirs, images, **options), strict=True
    )
    for found, wanted in pairs:
        if wanted is not None:
            assert golden.relative(found, wanted.numpy()) < 1e-5


@pytest.mark.parametrize("kind", _KINDS)
def test_a_folder_gives_its_networks_numbers_and_entries(kind, tmp_path):
    theirs = _made(kind, tmp_path, max_shard_size="20KB" if kind in ("vit", "clip") else "1GB")
    is_sharded = (tmp_path / "model.safetensors.index.json").is_file()
    assert is_sharded == (kind in ("vit", "clip"))
    path, name = f"hf:{tmp_path}", _KINDS[kind]
    assert files.network_of(path) == name
    variables, meta = files.load(path, "", headless=True)
    assert meta["model"] == name
    assert bool({"head", "fc"} & variables["params"].keys()) == _has_head(kind)
    assert meta["num_classes"] == ((12 if "clip" in kind else 5) if _has_head(kind) else 0)
    _compare(kind, theirs, variables, _images())
    if not _has_head(kind):
        with pytest.raises(errors.InputError, match="classifier"):
            files.load(path, "")
    given = _entries(tmp_path)
    inner = {"dino classifier": "dinov2.", "clip classifier": "vision_model."}
    prefix = "vision_model." if kind == "siglip" else inner.get(kind, "")
    for entry, value in to_torch(name, variables, layout="transformers").items():
        wanted = given.pop(prefix + entry)
        if "mask_token" in entry:
            continue  # which is not kept
        if kind == "dino registers" and entry.endswith(("cls_token", "position_embeddings")):
            continue  # the class token has its position in it
        np.testing.assert_array_equal(value, wanted, entry)
    if "clip" not in kind and "siglip" not in kind and kind != "dino classifier":
        assert not [entry for entry in given if "pooler" not in entry]


def _entries(folder):
    """Of all files of weights there."""
    entries = {}
    for file in folder.glob("*.safetensors"):
        entries |= safetensors.numpy.load_file(file)
    return entries


@pytest.mark.parametrize("kind", ["convnext", "regnet"])
def test_other_sizes_of_images_are_the_same_too(kind, tmp_path):
    theirs = _made(kind, tmp_path)
    _compare(kind, theirs, files.load(f"hf:{tmp_path}", "")[0], _images(48))


def _resampled(positions, side, others):
    """Position embeddings [1, N, D] as transformers resamples them: bicubically, a = -0.75."""
    rest, squares = np.split(np.asarray(positions), [others], axis=1)
    grid = round(squares.shape[1] ** 0.5)
    squares = torch.from_numpy(squares.reshape(1, grid, grid, -1).copy()).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(squares, (side // 8,) * 2, mode="bicubic")
    wanted = wanted.permute(0, 2, 3, 1).reshape(1, -1, rest.shape[2])
    return np.concatenate([rest, wanted.numpy()], axis=1)


@pytest.mark.parametrize(("kind", "others"), [("vit", 1), ("clip", 1), ("siglip", 0), ("dino", 1)])
def test_at_another_size_only_the_resampling_of_positions_differs(kind, others, tmp_path):
    theirs, images = _made(kind, tmp_path), _images(48)
    variables, _ = files.load(f"hf:{tmp_path}", "", headless=True)
    params = variables["params"]
    positions = _resampled(params["pos_embed"], 48, others)
    variables["params"] = {**params, "pos_embed": positions}
    options = {} if kind == "dino" else {"interpolate_pos_encoding": True}
    _compare(kind, theirs, variables, images, **options)


@pytest.mark.long
def test_mobilenets_of_transformers_are_read_and_written(tmp_path):
    config = transformers.MobileNetV2Config(
        tf_padding=False, layer_norm_eps=1e-5, image_size=64, **_LABELS
    )
    theirs = _filled(transformers.MobileNetV2ForImageClassification(config))
    theirs.save_pretrained(tmp_path)
    images = _images(64)
    variables, meta = files.load(f"hf:{tmp_path}", "")
    assert meta["model"] == "mobilenetv2"
    outputs = jax.jit(networks.create("mobilenetv2", 5).apply)(variables, images)
    with torch.inference_mode():
        wanted = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).logits
    assert golden.relative(outputs.logits, wanted.numpy()) < 1e-5
    back = to_torch("mobilenetv2", variables, layout="transformers")
    given = _entries(tmp_path)
    assert back.keys() == given.keys()
    for entry, value in given.items():
        np.testing.assert_array_equal(back[entry], value, entry)
