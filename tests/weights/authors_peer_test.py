"""Weights in the layouts of OpenAI and of the authors of DINOv2, compared with timm."""

import re

import jax
import numpy as np
import pytest

from rrd_jax import errors, networks
from rrd_jax.weights import files, from_torch, sizes, to_torch
from tests import golden
from tests.weights.small import small_networks

pytestmark = pytest.mark.usefixtures("small_networks")
__all__ = ["small_networks"]
torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
_SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def _create_with_timm(**options):
    """Returns a network of timm with random weights."""
    network = timm.models.VisionTransformer(**_SIZES, **options).eval()
    draw = torch.Generator().manual_seed(3)
    for value in network.state_dict().values():
        value.copy_(0.5 * torch.randn(value.shape, generator=draw))
    return network


def _check(name, peer, content, entries, layout, **options):
    """Loads `content`, compares outputs with timm, and returns the entries in the same layout.

    Args:
      name: network of rrd_jax.
      peer: network of timm, which loads `entries`.
      content: state dict that rrd_jax loads.
      entries: state dict that timm loads.
      layout: layout of the returned state dict.
      **options: options of `from_torch`.
    """
    filtered = timm.models.vision_transformer.checkpoint_filter_fn
    peer.load_state_dict(filtered(dict(entries), peer))
    variables = from_torch(name, content, **options)
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32)
    classes = sizes(name, variables)[0] or 1
    network = networks.create(name, classes)
    head = {"kernel": np.zeros((32, 1), np.float32), "bias": np.zeros(1, np.float32)}
    all_variables = {**variables, "params": {"head": head, **variables["params"]}}
    outputs = jax.jit(network.apply)(all_variables, images)
    with torch.inference_mode():
        features = peer.forward_features(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        embedding = peer.forward_head(features, pre_logits=True)
        logits = peer.forward_head(features)
    assert golden.relative(outputs.embedding, embedding.numpy()) < 1e-5
    if classes > 1:
        assert golden.relative(outputs.logits, logits.numpy()) < 1e-5
    return to_torch(name, variables, layout=layout)


def _openai(network):
    """Returns the state dict of an image tower in the layout of OpenAI."""
    names = {
        "cls_token": "class_embedding",
        "pos_embed": "positional_embedding",
        "patch_embed.proj.weight": "conv1.weight",
    }
    modules = {
        **{"norm_pre.": "ln_pre.", "norm.": "ln_post.", "blocks.": "transformer.resblocks."},
        **{"norm1.": "ln_1.", "norm2.": "ln_2.", "fc1.": "c_fc.", "fc2.": "c_proj."},
        **{"attn.qkv.": "attn.in_proj_", "attn.proj.": "attn.out_proj."},
    }
    entries = {}
    for name, value in network.state_dict().items():
        for old, new in modules.items():
            name = re.sub(rf"(^|\.){re.escape(old)}", rf"\g<1>{new}", name)
        entries[f"visual.{names.get(name, name)}"] = value.squeeze() if "emb" in name else value
    entries["visual.proj"] = entries.pop("visual.head.weight").T.contiguous()
    del entries["visual.head.bias"]
    for name in ("class_embedding", "positional_embedding"):
        entries[f"visual.{name}"] = entries[f"visual.{name}"].squeeze()
    return entries


def test_clip_of_openai_is_read_with_or_without_its_text_tower():
    options = {"num_classes": 12, "pre_norm": True, "norm_layer": _norm, "mlp_ratio": 2}
    peer = _create_with_timm(**options, act_layer="quick_gelu")
    tower = _openai(peer)
    text = {
        "transformer.resblocks.0.ln_1.weight": torch.ones(16),
        "positional_embedding": torch.ones(8, 16),
        "token_embedding.weight": torch.ones(9, 16),
        "logit_scale": torch.tensor(1.0),
        "text_projection": torch.ones(16, 12),
        "ln_final.bias": torch.ones(16),
    }
    without_prefix = {name.removeprefix("visual."): value for name, value in tower.items()}
    name = "small_clip_quickgelu"
    for content in (tower | text, without_prefix, {"state_dict": tower | text, "epoch": 3}):
        restored = _check(name, peer, content, tower | text, "openai")
        assert restored.keys() == tower.keys()
        for entry, value in tower.items():
            np.testing.assert_array_equal(restored[entry], value.numpy(), entry)
    with pytest.raises(errors.InputError, match="a text tower, which reads no images: name the fi"):
        from_torch(name, text)


class _NestedModule(torch.nn.Module):
    """A nested module with the given state dict."""

    def __init__(self, entries):
        super().__init__()
        firsts = dict.fromkeys(name.partition(".")[0] for name in entries)
        for first in firsts:
            if first in entries:
                self.register_parameter(first, torch.nn.Parameter(entries[first]))
                continue
            inside = {n.removeprefix(f"{first}."): v for n, v in entries.items()}
            self.add_module(
                first, _NestedModule({n: v for n, v in inside.items() if n not in entries})
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


# TorchScript is deprecated.
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_torchscript_of_openai_is_read_without_executing_it(tmp_path, monkeypatch):
    options = {"num_classes": 12, "pre_norm": True, "norm_layer": _norm, "mlp_ratio": 2}
    entries = _openai(_create_with_timm(**options, act_layer="quick_gelu"))
    half = {name: value.half() for name, value in entries.items()}
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.save(torch.jit.script(_NestedModule(half)), path)
    monkeypatch.setattr(torch.jit, "load", None)
    variables, meta = files.load(path, "small_clip_quickgelu")
    assert meta["num_classes"] == 12
    restored = to_torch("small_clip_quickgelu", variables, layout="openai")
    for name, value in half.items():
        np.testing.assert_array_equal(restored[name], value.float().numpy(), name)


def _norm(width, **options):
    return torch.nn.LayerNorm(width, eps=1e-5, **options)


@pytest.mark.parametrize("kind", ["plain", "registers", "giant", "in groups"])
def test_files_of_the_authors_of_dinov2_are_read(kind, tmp_path):
    options = {"num_classes": 0, "init_values": 1e-5}
    if kind == "registers":
        options |= {"reg_tokens": 4, "no_embed_class": True}
    if kind == "giant":
        options |= {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
        options["mlp_ratio"] = 5.5
    peer = _create_with_timm(**options)
    entries = dict(peer.state_dict())
    if kind == "registers":
        entries["register_tokens"] = entries.pop("reg_token")
        entries["pos_embed"] = torch.cat([torch.ones(1, 1, 32), entries["pos_embed"]], dim=1)
    if kind == "giant":
        entries = {
            name.replace("fc1", "w12").replace("fc2", "w3"): value
            for name, value in entries.items()
        }
    entries["mask_token"] = torch.ones(1, 32)
    content = entries
    if kind == "in groups":
        content = {re.sub(r"^blocks\.", "blocks.0.", n): value for n, value in entries.items()}
    names = {"registers": "small_dino_reg", "giant": "small_dino_giant"}
    name = names.get(kind, "small_dino")
    restored = _check(name, peer, content, entries, "dinov2", headless=True)
    assert restored.keys() == entries.keys()
    folded = {"mask_token"} | ({"cls_token", "pos_embed"} if kind == "registers" else set())
    for entry in entries.keys() - folded:
        np.testing.assert_array_equal(restored[entry], entries[entry].numpy(), entry)
    torch.save(content, tmp_path / "dinov2_pretrain.pth")
    with pytest.raises(errors.InputError, match="its classifier head is missing: .* a backbone"):
        files.load(tmp_path / "dinov2_pretrain.pth", name)
