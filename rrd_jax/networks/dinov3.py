"""DINOv3's vision transformers (arXiv 2508.10104), whose positions are rotary.

Names, modules and computation are timm's. EUPE (arXiv 2603.22387) has the same networks, and a tiny
one.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax.networks import rotary, transformer, vit
from rrd_jax.networks.family import (
    Config,
    Entries,
    Family,
    Kind,
    Layout,
    Rule,
    fused,
    rules,
    transformer_fields,
    transformer_sizes,
)

# The largest period of the rotary positions, in units of half the image.
_LARGEST_PERIOD = 100.0


class _Block(rotary.Block):
    """A block with rotary positions."""

    bias: bool
    grid: tuple[int, int]

    def branches(self, hidden: int) -> tuple[nn.Module, nn.Module]:
        rotation = rotary.Rotation(self.grid, period=_LARGEST_PERIOD, paired=False)
        biases = "qv" if self.bias else ""
        attention = rotary.Attention(self.heads, rotation, biases, dtype=self.dtype, name="attn")
        mlp = transformer.GatedMlp if self.gated else transformer.Mlp
        return attention, mlp(hidden, dtype=self.dtype, name="mlp")


class DinoV3(vit.VisionTransformer):
    """A transformer with rotary positions, for images of any multiple of the patch size.

    Attributes:
      bias: whether queries and values have biases; keys have none.
    """

    registers: int = 4
    scale: float = 1e-5
    epsilon: float = 1e-5
    bias: bool = False

    def block(self, grid: tuple[int, int]) -> partial:
        """Returns the factory of blocks for a grid of patches."""
        return partial(_Block, **super().block(grid).keywords, bias=self.bias, grid=grid)

    def add_positions(self, tokens: list[jax.Array], patches: jax.Array) -> jax.Array:
        """Returns all tokens; positions are added in the attention."""
        return jnp.concatenate([*tokens, patches], axis=1)


_SIZES = {
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "small_plus": {"width": 384, "depth": 12, "heads": 6, "gated": True},
    "base": {"width": 768, "depth": 12, "heads": 12},
    "large": {"width": 1024, "depth": 24, "heads": 16},
    "huge_plus": {"width": 1280, "depth": 32, "heads": 20, "gated": True},
    "7b": {"width": 4096, "depth": 40, "heads": 32, "mlp": 2.0, "gated": True},
}


def _networks() -> dict[str, partial]:
    return {
        f"vit_{size}_patch16_dinov3{name}": partial(DinoV3, patch=16, **sizes, **bias)
        for size, sizes in _SIZES.items()
        for name, bias in (("", {}), ("_qkvb", {"bias": True}))
        # The tiny network is EUPE's, which has biases; the largest network has none.
        if (size, name) not in (("tiny", ""), ("7b", "_qkvb"))
    }


def _remove_key_bias(entries: Entries) -> Entries:
    """Removes the biases of keys, which the authors' files mask."""
    return {name: value for name, value in entries.items() if not name.endswith("attn.k_bias")}


def _add_key_bias(entries: Entries) -> Entries:
    """Adds biases of 0 for keys; inverts `_remove_key_bias`."""
    biases = {n: value for n, value in entries.items() if n.endswith("attn.q_bias")}
    keys = {n.replace("q_bias", "k_bias"): np.zeros_like(value) for n, value in biases.items()}
    return entries | keys


def _authors(marker: str, mlp: dict[str, str], *, gated: bool) -> Layout:
    """Returns a layout of the authors' files; `mlp` has their names of the MLP's layers."""
    block = {
        **{name: name for name in ("norm1.", "norm2.", "attn.proj.", "attn.qkv.weight")},
        **{f"gamma_{i}": f"ls{i}.gamma" for i in (1, 2)},
        **{f"mlp.{native}.": f"mlp.{foreign}." for native, foreign in mlp.items()},
    }
    biases = tuple(f"blocks.{{}}.attn.{part}_bias" for part in "qkv")
    return Layout(
        marker,
        "",
        (
            *rules(
                ("cls_token", "cls_token"),
                ("reg_token", "storage_tokens"),
                ("patch_embed.proj.", "patch_embed.proj."),
                *((f"blocks.{{}}.{name}", f"blocks.{{}}.{other}") for name, other in block.items()),
                ("norm.", "norm."),
            ),
            Rule(biases, ("blocks.{}.attn.qkv.bias",), shares=(1, 1, 1)),
        ),
        fits=lambda network: network.gated == gated,
        ignored=r"mask_token|rope_embed\.|local_cls_norm\.|projectors\.|.*\.bias_mask",
        after=_remove_key_bias,
        before=_add_key_bias,
    )


def _transformers(marker: str, mlp: dict[str, str], *, gated: bool) -> Layout:
    """Returns a layout of transformers; `mlp` has its names of the MLP's layers."""
    block = {
        **{name: name for name in ("norm1.", "norm2.")},
        **{f"attn.{part}_bias": f"attention.{part}_proj.bias" for part in "qv"},
        "attn.proj.": "attention.o_proj.",
        **{f"gamma_{i}": f"layer_scale{i}.lambda1" for i in (1, 2)},
        **{f"mlp.{native}.": f"mlp.{foreign}." for native, foreign in mlp.items()},
    }
    return Layout(
        marker,
        "",
        (
            *rules(
                ("cls_token", "embeddings.cls_token"),
                ("reg_token", "embeddings.register_tokens"),
                ("patch_embed.proj.", "embeddings.patch_embeddings."),
                *((f"blocks.{{}}.{name}", f"layer.{{}}.{other}") for name, other in block.items()),
                ("norm.", "norm."),
            ),
            fused("blocks.{}.attn.qkv.weight", "layer.{}.attention.{}_proj.weight", tuple("qkv")),
        ),
        fits=lambda network: network.gated == gated,
        ignored=r"embeddings\.mask_token",
    )


def _config_sizes(config: Config) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    more = ("patch_size", "num_register_tokens", "use_gated_mlp", "query_bias", "value_bias")
    activation = "silu" if config["use_gated_mlp"] else config["hidden_act"]
    return {name: config[name] for name in (*names, *more)} | {"hidden_act": activation}


def _network_sizes(network: DinoV3) -> dict[str, Any]:
    return {
        **transformer_sizes(network),
        "num_register_tokens": network.registers,
        "use_gated_mlp": network.gated,
        "query_bias": network.bias,
        "value_bias": network.bias,
        "hidden_act": "silu" if network.gated else "gelu",
    }


_KIND = Kind(
    "a DINOv3",
    DinoV3,
    {
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
        "patch_size": 16,
        "num_register_tokens": 0,
        "use_gated_mlp": False,
        "query_bias": True,
        "value_bias": True,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    },
    {"key_bias": False, "proj_bias": True, "mlp_bias": True, "rope_theta": _LARGEST_PERIOD},
    _config_sizes,
    _network_sizes,
    fields=transformer_fields,
)
# timm pools the mean of the patches by default; the authors use the class token.
FAMILY = Family(
    DinoV3,
    _networks(),
    image_size=256,
    timm_ends=("patch_embed.proj", "head"),
    timm_pool="token",
    timm_args={"global_pool": "token"},
    layouts={
        "transformers": (
            _transformers(
                "layer.0.mlp.gate_proj.weight",
                {"fc1_g": "gate_proj", "fc1_x": "up_proj", "fc2": "down_proj"},
                gated=True,
            ),
            _transformers(
                "layer.0.attention.q_proj.weight",
                {"fc1": "up_proj", "fc2": "down_proj"},
                gated=False,
            ),
        ),
        "dinov3": (
            _authors(
                "blocks.0.mlp.w1.weight", {"fc1_g": "w1", "fc1_x": "w2", "fc2": "w3"}, gated=True
            ),
            _authors("storage_tokens", {"fc1": "fc1", "fc2": "fc2"}, gated=False),
        ),
    },
    kinds={"dinov3_vit": _KIND},
)
