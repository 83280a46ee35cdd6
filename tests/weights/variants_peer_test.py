"""Folders of transformers whose networks have sizes that no published network has."""

import pytest

from rrd_jax import networks
from rrd_jax.weights import files, to_torch
from tests.weights import peers

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

_SIZES = {
    **{"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3},
    **{"image_size": 32, "patch_size": 16},
}
_MLP = {"intermediate_size": 40}
_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}


def _tokens(skipped):
    def outputs(peer, images):
        result = peer(images)
        tokens = result.last_hidden_state
        return {"embedding": tokens[:, 0], "patches": tokens[:, skipped:]}

    return outputs


def _pooled(peer, images):
    result = peer(images)
    return {"embedding": result.pooler_output, "patches": result.last_hidden_state}


_KINDS = {
    "vit_": ("ViT", {**_SIZES, **_MLP}, _tokens(1)),
    "vit_small_patch14_reg4_dinov2": (
        "Dinov2WithRegisters",
        {**_SIZES, "mlp_ratio": 3, "num_register_tokens": 2},
        _tokens(3),
    ),
    "siglip": ("SiglipVision", {**_SIZES, **_MLP}, _pooled),
    "dinov3_qkvb": ("DINOv3ViT", {**_SIZES, **_MLP, "num_register_tokens": 2}, _tokens(3)),
    "tipsv2": ("Tipsv2Vision", {**_SIZES, "mlp_ratio": 2}, _tokens(2)),
    "convnext_": ("ConvNext", _STAGES, _pooled),
}


@pytest.mark.parametrize("kind", _KINDS)
def test_folders_of_other_sizes_equal_transformers(kind, tmp_path):
    prefix, options, outputs = _KINDS[kind]
    config = getattr(transformers, f"{prefix}Config")(**options)
    peer = peers.randomize(getattr(transformers, f"{prefix}Model")(config))
    peer.save_pretrained(tmp_path)
    variables, meta = files.load(f"hf:{tmp_path}", "", headless=True)
    name = meta["model"]
    assert kind in name
    assert name.endswith(")")
    assert name in networks.MODELS
    peers.compare(name, variables, (32, 32), lambda images: outputs(peer, images))
    assert to_torch(name, variables, layout="transformers")
