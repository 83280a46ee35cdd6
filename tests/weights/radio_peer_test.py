"""C-RADIO compared with timm and transformers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from rrd_jax import networks
from rrd_jax.weights import entry_templates, files, from_torch, sidecar, to_torch
from tests.weights import peers
from tests.weights.small import small_networks

pytestmark = pytest.mark.usefixtures("small_networks")
__all__ = ["small_networks"]
torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")


def _build(name):
    """Returns a network and its random weights, those of its authors, and timm's network."""
    network = networks.create(name, 0)
    variables, draw = (
        networks.init(network, jax.random.key(0), (64, 64, 3)),
        np.random.default_rng(0),
    )
    variables = jax.tree.map(
        lambda leaf: draw.normal(0.3, 0.3, leaf.shape).astype(np.float32), variables
    )
    variables["params"]["patch_embed"]["proj"]["bias"][:] = 0
    authors = to_torch(name, variables, layout="radio")
    peer = timm.models.naflexvit.NaFlexVit(
        timm.models.naflexvit.NaFlexVitCfg(
            **{"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
            **{"class_token": True, "global_pool": "token", "final_norm": False},
            **{"pos_embed_grid_size": (8, 8), "pos_embed_interp_mode": "bilinear"},
            **{"pos_embed_ar_preserving": True, "pos_embed_antialias": False},
            pos_embed_align_corners=network.aligned,
            reg_tokens=network.registers,
            init_values=network.scale or None,
        ),
        num_classes=0,
    )
    peer.load_state_dict(_timm_entries(authors, peer))
    return network, variables, authors, peer.eval()


def _timm_entries(entries, peer):
    entries = {name: torch.tensor(value) for name, value in entries.items()}
    return timm.models.naflexvit.checkpoint_filter_fn(entries, peer)


@pytest.mark.parametrize("name", ["small_radio", "small_radio_scaled"])
def test_files_equal_timm(name):
    network, variables, authors, peer = _build(name)
    assert any("grandma" in entry for entry in authors) == bool(network.scale)
    extra = {
        "radio_model.summary_idxs": np.arange(2),
        "radio_model.adaptors.sam.head_mlp.fc1.weight": np.ones((2, 2), np.float32),
    }
    read = from_torch(name, authors | extra, headless=True)
    jax.tree.map(np.testing.assert_array_equal, read, variables)

    def outputs(images):
        tokens, maps = peer.forward_features(images), peer.forward_intermediates(images)[1]
        before = network.registers + 1
        return {
            "embedding": tokens[:, :2].flatten(1),
            "patches": tokens[:, before:],
            "maps": maps,
        }

    for shape in ((64, 64), (16, 56), (96, 40)):
        peers.compare(name, variables, shape, outputs)


def test_gradients_equal_timm():
    name, images = "small_radio_scaled", peers.images((64, 64))
    network, variables, _, peer = _build(name)

    @jax.jit
    @jax.value_and_grad
    def step(variables):
        outputs = network.apply(variables, images, train=True)
        return jnp.mean(outputs.embedding**2) + jnp.mean(outputs.patches**2)

    value, gradient = step(variables)
    peer = peer.double().train()
    tokens = peer.forward_features(peers.to_torch(images).double())
    expected = tokens[:, :2].square().mean() + tokens[:, network.registers + 1 :].square().mean()
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    actual = _timm_entries(to_torch(name, gradient), peer)
    peers.assert_equal_gradients({n: g.numpy() for n, g in actual.items()}, peer)


def test_folders_equal_transformers(tmp_path):
    config = transformers.RadioConfig(
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8},
        **{"max_img_size": 64, "num_cls_tokens": 3, "num_registers": 1},
        **{"norm_mean": [0.5, 0.25, 0.0], "norm_std": [0.5, 0.75, 1.0]},
    )
    peer = peers.randomize(transformers.RadioModel(config))
    for entry, value in peer.state_dict().items():
        if "lambda1" in entry:
            value.fill_(1)
    peer.save_pretrained(tmp_path)
    processor = {"do_normalize": False, "size": {"height": 64, "width": 64}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    variables, meta = files.load(f"hf:{tmp_path}", "", headless=True)
    assert meta["model"] == "small_radio"
    images = sidecar.read(tmp_path / "model.safetensors").preprocessing
    assert (images.mean, images.std) == ((0.5, 0.25, 0.0), (0.5, 0.75, 1.0))
    peer.make_preprocessor_external()

    def outputs(images):
        result = peer(images)
        return {"embedding": result.summary, "patches": result.features}

    for shape in ((64, 64), (16, 56)):
        peers.compare("small_radio", variables, shape, outputs)
    entries = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    written = to_torch("small_radio", variables, layout="transformers")
    assert written.keys() <= entries.keys()
    peers.assert_equal_entries(written, {entry: entries[entry] for entry in written})


@pytest.mark.parametrize("name", [name for name in networks.MODELS if "_radio_" in name])
def test_entries_of_all_sizes_equal_timm(name):
    with torch.device("meta"):
        peer = timm.create_model(name)
    network = networks.create(name, 0)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 512, 512, 3)))
    actual = {entry: value.shape for entry, value in entry_templates.entries(shapes).items()}
    assert actual == {entry: tuple(value.shape) for entry, value in peer.state_dict().items()}
    assert networks.image_size(name) == peer.default_cfg["input_size"][-1]
