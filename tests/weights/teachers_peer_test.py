"""DINOv3's ConvNeXts, TIPSv2 and SigLIP 2 compared with timm and transformers."""

import json
from functools import partial

import pytest
import safetensors.numpy

from rrd_jax import errors, networks
from rrd_jax.networks import transformer
from rrd_jax.weights import files, from_torch, published, sidecar, to_torch
from tests.networks import modern
from tests.weights import peers
from tests.weights.small import small_networks

pytestmark = pytest.mark.usefixtures("small_networks")
__all__ = ["small_networks"]
torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

_CONVNEXT = "small_dinov3_convnext"
_TIPS = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"image_size": 32, "patch_size": 8},
}


def _timm_convnext(num_classes):
    depths, widths = (1, 1, 2, 1), (8, 16, 24, 32)
    network = timm.models.ConvNeXt(depths=depths, dims=widths, num_classes=num_classes)
    return peers.randomize(network)


def test_dinov3_convnext_equals_timm_and_its_authors():
    peer = _timm_convnext(5)
    variables = from_torch(_CONVNEXT, peer.state_dict())

    def outputs(images):
        last, maps = peer.forward_intermediates(images)
        return {
            "logits": peer(images),
            "embedding": peer.forward_head(last, pre_logits=True),
            # timm's features lack the final norm.
            "patches": peer.head.norm(last),
            "maps": maps,
        }

    peers.compare(_CONVNEXT, variables, (32, 32), outputs, 5)
    peers.assert_equal_entries(to_torch(_CONVNEXT, variables), peer.state_dict())
    entries = to_torch(_CONVNEXT, variables, layout="dinov3")
    filtered = timm.models.convnext.checkpoint_filter_fn(
        {name: torch.from_numpy(value) for name, value in entries.items()}, peer
    )
    peers.assert_equal_entries(filtered, peer.state_dict())
    read = from_torch(_CONVNEXT, {**entries, "norms.3.weight": entries["norm.weight"]})
    peers.assert_equal_entries(to_torch(_CONVNEXT, read), peer.state_dict())


def _folder(peer, folder):
    """Returns the network, weights and entries of a folder that transformers writes."""
    peers.randomize(peer).save_pretrained(folder)
    variables, meta = files.load(f"hf:{folder}", "", headless=True)
    return meta["model"], variables, safetensors.numpy.load_file(folder / "model.safetensors")


def test_dinov3_convnext_folders_equal_transformers(tmp_path):
    config = transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])
    peer = transformers.DINOv3ConvNextModel(config)
    name, variables, entries = _folder(peer, tmp_path)
    assert name == _CONVNEXT

    def outputs(images):
        result = peer(images)
        return {"embedding": result.pooler_output, "patches": result.last_hidden_state[:, 1:]}

    for shape in ((48, 48), (64, 96)):
        peers.compare(name, variables, shape, outputs)
    peers.assert_equal_entries(to_torch(name, variables, layout="transformers"), entries)


@pytest.mark.parametrize("tag", ["dinov3_lvd1689m", "eupe_lvd1689m", "fb_in1k"])
def test_the_tag_of_timm_selects_the_network(tag, tmp_path):
    content = {"architecture": "convnext_tiny", "num_classes": 0, "pretrained_cfg": {"tag": tag}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    expected = "convnext_tiny" if tag == "fb_in1k" else "convnext_tiny_dinov3"
    assert sidecar.read(tmp_path / "model.safetensors").model == expected
    assert published.from_timm(f"convnext_tiny.{tag}") == expected


@pytest.mark.parametrize("name", ["small_tips", "small_tips_giant"])
def test_tips_folders_equal_transformers_at_three_image_sizes(name, tmp_path):
    config = transformers.Tipsv2VisionConfig(**_TIPS, use_swiglu_ffn="giant" in name)
    peer = transformers.Tipsv2VisionModel(config)
    model, variables, entries = _folder(peer, tmp_path)
    assert model == name

    def outputs(images):
        result = peer(images, output_hidden_states=True)
        tokens = result.last_hidden_state
        grid = [side // 8 for side in images.shape[2:]]
        maps = [state[:, 2:].mT.unflatten(2, grid) for state in result.hidden_states[1:]]
        return {"embedding": result.pooler_output, "patches": tokens[:, 2:], "maps": maps}

    for shape in ((32, 32), (56, 56), (16, 40)):
        peers.compare(name, variables, shape, outputs)
    written = to_torch(name, variables, layout="transformers")
    assert written.keys() == entries.keys()
    authors = {
        f"vision_encoder.{entry.replace('c_fc', 'fc1').replace('c_proj', 'fc2')}": value
        for entry, value in written.items()
    }
    for content in (written, authors):
        read = from_torch(name, content, headless=True)
        peers.assert_equal_entries(to_torch(name, read), to_torch(name, variables))


def test_tips_of_a_whole_model_and_of_timm_are_read(tmp_path):
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}
    config = transformers.Tipsv2Config(vision_config=_TIPS, text_config=text)
    name, variables, _ = _folder(transformers.Tipsv2Model(config), tmp_path)
    assert name == "small_tips"
    peer = timm.models.VisionTransformer(
        **{"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
        **{"num_classes": 0, "init_values": 1.0, "reg_tokens": 1, "no_embed_class": True},
    )
    entries = {n: torch.from_numpy(value) for n, value in to_torch(name, variables).items()}
    peer.load_state_dict(entries)

    def outputs(images):
        features = peer.eval().forward_features(images)
        return {"embedding": features[:, 0], "patches": features[:, 2:]}

    peers.compare(name, variables, (32, 32), outputs)


@pytest.mark.parametrize(
    "name",
    [
        *(name for name in networks.MODELS if name.endswith("tipsv2")),
        # One image size of each.
        *{name.rpartition("_")[0]: name for name in modern.SIGLIP_2 if "tanh" not in name}.values(),
        *(f"aimv2_{size}_patch14_336" for size in ("large", "huge", "1b", "3b")),
        *(name for name in networks.MODELS if name.startswith(("eva02", "vit_pe_", "beitv2"))),
    ],
)
def test_sizes_and_activations_equal_timm(name):
    side = networks.image_size(name)
    with torch.device("meta"):
        peer = timm.create_model(name, num_classes=7, depth=2)
        assert len(timm.create_model(name).blocks) == networks.create(name, 7).depth
    assert peer.patch_embed.img_size == (side, side)
    summary = networks.summarize(networks.create(name, 7).clone(depth=2), (side, side, 3))
    assert summary.parameters == sum(p.numel() for p in peer.parameters())
    if name.startswith(("aimv2", "eva02", "vit_pe_", "beitv2")):
        return
    approximate = type(peer.blocks[0].mlp.act).__name__ == "GELUTanh"
    assert approximate == (networks.create(name, 7).activation is transformer.gelu_tanh)


def test_naflex_is_refused(tmp_path):
    transformers.Siglip2VisionConfig().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(errors.InputError, match="NaFlex.*any aspect ratio"):
        files.network_of(f"hf:{tmp_path}")


def test_aimv2_equals_timm_and_transformers(tmp_path):
    norm = partial(timm.layers.RmsNorm, eps=1e-5)
    build = partial(
        timm.models.VisionTransformer,
        **{"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.75},
        **{"class_token": False, "fc_norm": False, "global_pool": "avg"},
        **{"qkv_bias": False, "proj_bias": False, "act_layer": "silu"},
        **{"norm_layer": norm, "embed_norm_layer": norm, "mlp_layer": timm.layers.SwiGLU},
        **{"num_classes": 5, "dynamic_img_size": True},
    )
    peer = peers.randomize(build(img_size=32))
    variables = from_torch("small_aimv2", peer.state_dict())
    peers.assert_equal_entries(to_torch("small_aimv2", variables), peer.state_dict())

    def outputs(images):
        features, maps = peer.forward_features(images), peer.forward_intermediates(images)[1]
        return {
            "logits": peer(images),
            "embedding": features.mean(1),
            "patches": features,
            "maps": maps,
        }

    for shape in ((32, 32), (48, 48), (16, 56)):
        peers.compare("small_aimv2", variables, shape, outputs, 5)
    content = {n: v for n, v in peer.state_dict().items() if not n.startswith("head.")}
    body = from_torch("small_aimv2", content, headless=True)
    authors = to_torch("small_aimv2", body, layout="aimv2")
    target = build(img_size=32, num_classes=0)
    filtered = timm.models.vision_transformer.checkpoint_filter_fn(
        {name: torch.from_numpy(value) for name, value in authors.items()}, target
    )
    target.load_state_dict(filtered)
    peers.assert_equal_entries(target.state_dict(), content)
    config = transformers.Aimv2VisionConfig(
        **{"hidden_size": 32, "intermediate_size": 88, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "image_size": 32, "patch_size": 8, "use_head": False},
    )
    name, variables, entries = _folder(transformers.Aimv2VisionModel(config), tmp_path)
    assert name == "small_aimv2"
    peer = transformers.Aimv2VisionModel.from_pretrained(tmp_path)
    peers.compare(
        name, variables, (32, 32), lambda images: {"patches": peer(images).last_hidden_state}
    )
    peers.assert_equal_entries(to_torch(name, variables, layout="transformers"), entries)


@pytest.mark.parametrize("name", ["small_eva02", "small_eva02_separate"])
def test_eva02_equals_timm(name):
    is_separate = name.endswith("separate")
    peer = peers.randomize(
        timm.models.eva.Eva(
            **{"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
            **{"mlp_ratio": 8 / 3, "swiglu_mlp": True, "use_rot_pos_emb": True},
            **{"ref_feat_shape": (4, 4), "num_classes": 5, "dynamic_img_size": True},
            qkv_fused=not is_separate,
            scale_mlp=is_separate,
        )
    )
    variables = from_torch(name, peer.state_dict())
    peers.assert_equal_entries(to_torch(name, variables), peer.state_dict())

    outputs = peers.timm_outputs(peer, 1)
    for shape in ((32, 32), (48, 48), (16, 56)):
        peers.compare(name, variables, shape, outputs, 5)


@pytest.mark.parametrize("name", ["small_pe_core", "small_pe_spatial"])
def test_perception_encoders_equal_timm(name):
    is_core = name.endswith("core")
    pool = {"global_pool": "map", "attn_pool_num_heads": 8, "attn_pool_mlp_ratio": 4.0}
    build = partial(
        timm.models.eva.Eva,
        **{"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
        **{"attn_type": "rope", "use_rot_pos_emb": True, "ref_feat_shape": (4, 4)},
        **{"rope_grid_indexing": "xy", "use_pre_transformer_norm": True, "num_classes": 5},
        **(pool | {"rope_grid_offset": 1.0, "mlp_ratio": 3.0} if is_core else {}),
        **({} if is_core else {"class_token": False, "use_post_transformer_norm": False}),
        **({} if is_core else {"use_fc_norm": False, "init_values": 0.1}),
        norm_layer=partial(timm.layers.LayerNorm, eps=1e-5),
        dynamic_img_size=True,
    )
    peer = peers.randomize(build())
    variables = from_torch(name, peer.state_dict())
    peers.assert_equal_entries(to_torch(name, variables), peer.state_dict())

    outputs = peers.timm_outputs(peer, is_core)
    for shape in ((32, 32), (48, 48), (16, 56)):
        peers.compare(name, variables, shape, outputs, 5)
    if is_core:
        head = variables["params"]["head"]
        projection = {**head, "bias": 0 * head["bias"]}
        variables["params"] = {**variables["params"], "head": projection}
        authors = to_torch(name, variables, layout="perception")
        filtered = timm.models.eva.checkpoint_filter_fn(
            {entry: torch.from_numpy(value) for entry, value in authors.items()}, peer
        )
        peers.assert_equal_entries(filtered, to_torch(name, variables))
        read = from_torch(name, authors)
        peers.assert_equal_entries(to_torch(name, read), to_torch(name, variables))


def test_beit_equals_timm_and_transformers(tmp_path):
    peer = peers.randomize(
        timm.models.beit.Beit(
            **{"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
            **{"use_abs_pos_emb": False, "use_rel_pos_bias": True, "init_values": 1e-5},
            num_classes=5,
        )
    )
    variables = from_torch("small_beit", peer.state_dict())
    peers.assert_equal_entries(to_torch("small_beit", variables), peer.state_dict())

    outputs = peers.timm_outputs(peer, 1)
    peers.compare("small_beit", variables, (32, 32), outputs, 5)
    with pytest.raises(errors.InputError, match="48x48 pixels .*; set the image size to 32"):
        peers.compare("small_beit", variables, (48, 48), outputs, 5)
    config = transformers.BeitConfig(
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 5},
        **{"intermediate_size": 128, "image_size": 32, "patch_size": 8},
        **{"use_relative_position_bias": True, "layer_scale_init_value": 0.1},
    )
    model = peers.randomize(transformers.BeitForImageClassification(config))
    model.save_pretrained(tmp_path)
    variables, meta = files.load(f"hf:{tmp_path}", "")
    assert meta["model"] == "small_beit"

    def other_outputs(images):
        tokens = model.beit(images).last_hidden_state
        return {"logits": model(images).logits, "patches": tokens[:, 1:]}

    peers.compare("small_beit", variables, (32, 32), other_outputs, 5)
    entries = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    written = to_torch("small_beit", variables, layout="transformers")
    peers.assert_equal_entries(written, entries)
