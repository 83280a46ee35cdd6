"""Swin and Swin V2 compared with timm and transformers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from rrd_jax import errors, networks
from rrd_jax.weights import entry_templates, files, from_torch, to_torch
from tests.weights import peers
from tests.weights.small import small_networks

pytestmark = pytest.mark.usefixtures("small_networks")
__all__ = ["small_networks"]
torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

_NAMES = ("small_swin", "small_swinv2")
_SIZES = {"embed_dim": 16, "depths": (1, 2), "num_heads": (1, 2), "window_size": 4}


def _build(name, shape=(32, 32)):
    """Returns timm's network with random weights."""
    if "v2" in name:
        build = partial(
            timm.models.swin_transformer_v2.SwinTransformerV2, pretrained_window_sizes=(3, 2)
        )
    else:
        build = timm.models.swin_transformer.SwinTransformer
    return peers.randomize(build(img_size=shape, num_classes=5, drop_path_rate=0.0, **_SIZES))


@pytest.mark.parametrize("name", _NAMES)
def test_outputs_and_entries_equal_timm(name):
    peer = _build(name)
    variables = from_torch(name, peer.state_dict())
    peers.assert_equal_entries(to_torch(name, variables), peer.state_dict())
    shapes = [(32, 32), (64, 64), (32, 96)]
    # In V2, maps may be smaller than the windows.
    for shape in [*shapes, (16, 32)] if "v2" in name else shapes:
        peer = _build(name, shape)

        def outputs(images, peer=peer):
            features, maps = peer.forward_features(images), peer.forward_intermediates(images)[1]
            return {
                "logits": peer(images),
                "embedding": peer.forward_head(features, pre_logits=True),
                "patches": features.movedim(3, 1),
                "maps": maps,
            }

        peers.compare(name, variables, shape, outputs, 5)
    with pytest.raises(
        errors.InputError, match="40x40 pixels .*; set the image size to a multiple of 32"
    ):
        peers.compare(name, variables, (40, 40), outputs, 5)


@pytest.mark.parametrize("name", _NAMES)
def test_files_of_the_authors_equal_timm(name):
    peer = _build(name)
    variables = from_torch(name, peer.state_dict())
    authors = to_torch(name, variables, layout="swin")
    assert {"head.weight", "layers.0.downsample.reduction.weight"} <= authors.keys()
    module = timm.models.swin_transformer_v2 if "v2" in name else timm.models.swin_transformer
    entries = {entry: torch.from_numpy(value) for entry, value in authors.items()}
    peers.assert_equal_entries(module.checkpoint_filter_fn(entries, peer), peer.state_dict())
    index = {"layers.0.blocks.0.attn.relative_position_index": np.zeros((16, 16), int)}
    jax.tree.map(np.testing.assert_array_equal, from_torch(name, authors | index), variables)


@pytest.mark.parametrize("name", ["small_swin", "small_swinv2(pretrained_windows=())"])
def test_folders_equal_transformers(name, tmp_path):
    kind = "Swinv2" if "v2" in name else "Swin"

    def build(shape):
        config = getattr(transformers, f"{kind}Config")(image_size=shape, num_labels=5, **_SIZES)
        return getattr(transformers, f"{kind}ForImageClassification")(config).eval()

    native = peers.randomize(build((32, 32)))
    native.save_pretrained(tmp_path)
    variables, meta = files.load(f"hf:{tmp_path}", "")
    assert meta["model"] == name
    # Which windows transformers shifts depends on the image size of the config in V2, and in V1 on
    # the images since the network was made.
    for shape in ((32, 32), (64, 64), (96, 64)):
        peer = build(shape)
        peer.load_state_dict(native.state_dict())
        body = getattr(peer, kind.lower())

        def outputs(images, peer=peer, body=body):
            result = body(images)
            encoded = body.encoder(
                *body.embeddings(images),
                output_hidden_states=True,
                output_hidden_states_before_downsampling=True,
            )
            return {
                "logits": peer(images).logits,
                "embedding": result.pooler_output,
                "patches": result.last_hidden_state,
                "maps": encoded.reshaped_hidden_states,
            }

        peers.compare(name, variables, shape, outputs, 5)
    entries = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    peers.assert_equal_entries(to_torch(name, variables, layout="transformers"), entries)


@pytest.mark.parametrize("name", _NAMES)
def test_gradients_equal_timm(name):
    peer, images = _build(name), peers.images((32, 32))
    variables, network = from_torch(name, peer.state_dict()), networks.create(name, 5)

    @jax.jit
    @jax.value_and_grad
    def step(params):
        outputs = network.apply({**variables, "params": params}, images, train=True)
        return jnp.mean(outputs.logits**2) + jnp.mean(outputs.patches**2)

    value, gradient = step(variables["params"])
    peer = peer.double().train()
    features = peer.forward_features(peers.to_torch(images).double())
    expected = peer.forward_head(features).square().mean() + features.square().mean()
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    peers.assert_equal_gradients(to_torch(name, {"params": gradient}), peer)


@pytest.mark.parametrize(
    "name", [name for name in networks.MODELS if name.startswith(("swin_", "swinv2_"))]
)
def test_entries_of_all_sizes_equal_timm(name):
    sizes = {"num_classes": entry_templates.CLASSES, "in_chans": entry_templates.CHANNELS}
    with torch.device("meta"):
        peer = timm.create_model(name, **sizes)
    expected = {entry: tuple(value.shape) for entry, value in peer.state_dict().items()}
    assert {n: entry.shape for n, entry in entry_templates.template(name).items()} == expected
    assert networks.image_size(name) == peer.default_cfg["input_size"][-1]
