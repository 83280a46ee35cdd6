"""DINOv3 and EUPE compared with timm and transformers: outputs, gradients and entries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from rrd_jax import errors, networks
from rrd_jax.networks import dinov3
from rrd_jax.weights import files, from_torch, to_torch
from tests import golden
from tests.weights import peers
from tests.weights.small import small_networks

pytestmark = pytest.mark.usefixtures("small_networks")
__all__ = ["small_networks"]
torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

_NAMES = ("small_dinov3", "small_dinov3_qkvb", "small_dinov3_gated")
_SHAPES = ((32, 32), (48, 48), (16, 56))


def _build(name, num_classes=5):
    """Returns timm's network with random weights."""
    return peers.randomize(
        timm.models.eva.Eva(
            **{"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
            **{"num_classes": num_classes, "global_pool": "token", "dynamic_img_size": True},
            **{"init_values": 1e-5, "num_reg_tokens": 4, "use_fc_norm": False},
            **{"use_rot_pos_emb": True, "use_abs_pos_emb": False, "rope_type": "dinov3"},
            **{"rope_temperature": 100, "rope_rotate_half": True},
            swiglu_mlp="gated" in name,
            swiglu_align_to=8,
            qkv_bias=name != "small_dinov3",
            norm_layer=lambda width, **options: torch.nn.LayerNorm(width, eps=1e-5),
        )
    )


def _compare(name, variables, peer):
    """Compares logits, embeddings and patches with timm's network at three image sizes."""
    network = networks.create(name, 5)
    for shape in _SHAPES:
        images = peers.images(shape)
        outputs = jax.jit(network.apply)(variables, images)
        with torch.inference_mode():
            features = peer.forward_features(peers.to_torch(images))
            logits = peer.forward_head(features)
            maps = peer.forward_intermediates(peers.to_torch(images), intermediates_only=True)
        assert golden.relative(outputs.logits, logits.numpy()) < 1e-5
        assert golden.relative(outputs.embedding, features[:, 0].numpy()) < 1e-5
        patches = features[:, 5:].reshape(outputs.patches.shape)
        assert golden.relative(outputs.patches, patches.numpy()) < 1e-5
        for actual, expected in zip(outputs.maps[1:], maps, strict=True):
            assert golden.relative(actual, expected.permute(0, 2, 3, 1).numpy()) < 1e-5


@pytest.mark.parametrize("name", _NAMES)
def test_outputs_and_entries_equal_timm_at_three_image_sizes(name):
    peer = _build(name)
    variables = from_torch(name, peer.state_dict())
    _compare(name, variables, peer)
    restored = to_torch(name, variables)
    assert restored.keys() == peer.state_dict().keys()
    for entry, value in peer.state_dict().items():
        np.testing.assert_array_equal(restored[entry], value.numpy(), entry)


@pytest.mark.parametrize("name", _NAMES)
def test_files_of_the_authors_are_read_and_written(name):
    peer = _build(name)
    entries = {n: v for n, v in peer.state_dict().items() if not n.startswith("head.")}
    variables = from_torch(name, entries, headless=True)
    written = to_torch(name, variables, layout="dinov3")
    filtered = timm.models.eva.checkpoint_filter_fn
    target = _build(name, num_classes=0)
    content = {n: torch.from_numpy(value) for n, value in written.items()}
    extra = {
        "mask_token": torch.ones(1, 32),
        "rope_embed.periods": torch.ones(4),
        "blocks.0.attn.qkv.bias_mask": torch.ones(96),
        "local_cls_norm.weight": torch.ones(32),
    }
    target.load_state_dict(filtered(content | extra, target))
    for entry, value in target.state_dict().items():
        assert torch.equal(value, entries[entry]), entry
    read = from_torch(name, {"teacher": content | extra}, headless=True)
    jax.tree.map(np.testing.assert_array_equal, read, variables)


@pytest.mark.parametrize("name", _NAMES)
def test_folders_of_transformers_are_read(name, tmp_path):
    config = transformers.DINOv3ViTConfig(
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"intermediate_size": 128, "image_size": 32, "patch_size": 8},
        num_register_tokens=4,
        use_gated_mlp="gated" in name,
        hidden_act="silu" if "gated" in name else "gelu",
        query_bias=name != "small_dinov3",
        value_bias=name != "small_dinov3",
    )
    peer = peers.randomize(transformers.DINOv3ViTModel(config))
    peer.save_pretrained(tmp_path)
    path = f"hf:{tmp_path}"
    assert files.network_of(path) == name
    variables, meta = files.load(path, "", headless=True)
    assert meta["model"] == name
    network = networks.create(name, 0)
    for shape in _SHAPES:
        images = peers.images(shape)
        outputs = jax.jit(network.apply)(variables, images)
        with torch.inference_mode():
            result = peer(peers.to_torch(images))
        assert golden.relative(outputs.embedding, result.pooler_output.numpy()) < 1e-5
        patches = result.last_hidden_state[:, 5:].reshape(outputs.patches.shape)
        assert golden.relative(outputs.patches, patches.numpy()) < 1e-5
    entries = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    written = to_torch(name, variables, layout="transformers")
    assert written.keys() == entries.keys() - {"embeddings.mask_token"}
    for entry, value in written.items():
        np.testing.assert_array_equal(value, entries[entry], entry)


def test_gradients_equal_timm():
    name = "small_dinov3_gated"
    peer = _build(name).train()
    variables, images = from_torch(name, peer.state_dict()), peers.images((16, 56), 4)
    network = networks.create(name, 5)

    def loss(params):
        outputs = network.apply({**variables, "params": params}, images, train=True)
        return jnp.mean(outputs.logits**2) + jnp.mean(outputs.patches**2)

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"])
    peer = peer.double()
    features = peer.forward_features(peers.to_torch(images).double())
    expected = peer.forward_head(features).square().mean() + features[:, 5:].square().mean()
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    peers.assert_equal_gradients(to_torch(name, {"params": gradient}), peer)


@pytest.mark.parametrize("name", dinov3.FAMILY.networks)
def test_sizes_equal_timm(name):
    network = networks.create(name, 7)

    def count(depth):
        shallow = network.clone(depth=depth)
        return networks.summarize(shallow, (32, 32, 3)).parameters

    def count_timm(depth=None):
        with torch.device("meta"):
            peer = timm.create_model(name, num_classes=7, **({"depth": depth} if depth else {}))
        return sum(p.numel() for p in peer.parameters())

    outside, inside = 2 * count(1) - count(2), count(2) - count(1)
    assert [count(1), count(2)] == [count_timm(1), count_timm(2)]
    assert outside + network.depth * inside == count_timm()


def test_a_mismatched_folder_is_refused(tmp_path):
    config = transformers.DINOv3ViTConfig(key_bias=True)
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(errors.InputError, match="key_bias=True, which is not supported"):
        files.network_of(f"hf:{tmp_path}")
