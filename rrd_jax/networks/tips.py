"""TIPSv2's image towers (arXiv 2604.12012): DINOv2's networks with one register.

The register is a second class token. Names, modules and computation are timm's.
"""

from functools import partial
from typing import Any

from rrd_jax.networks import vit
from rrd_jax.networks.family import (
    Config,
    Family,
    Kind,
    Layout,
    dino_entries,
    dino_hidden,
    transformer_fields,
    transformer_sizes,
)


class Tips(vit.VisionTransformer):
    """A vision transformer whose position embeddings are resampled bilinearly."""

    registers: int = 1
    patch_positions_only: bool = True
    scale: float = 1.0
    resampling = "linear"


def _networks() -> dict[str, partial]:
    options = {"base": {}, "large": {}, "so400m": {}, "giant": vit.GATED}
    return {
        f"vit_{size}_patch14_reg1_tipsv2": partial(Tips, patch=14, **vit.SIZES[size], **more)
        for size, more in options.items()
    }


def _layout(first: str, second: str, *, gated: bool) -> Layout:
    """Returns the layout of the authors' files; the arguments name the layers of the MLP."""
    return Layout(
        f"blocks.0.mlp.{first}.weight",
        "",
        dino_entries([(first, second)]),
        fits=lambda network: network.gated == gated,
        class_position=True,
    )


def _config_sizes(config: Config) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")
    return {
        **{name: config[name] for name in (*names, "num_register_tokens", "use_swiglu_ffn")},
        "intermediate_size": dino_hidden(config),
    }


def _network_sizes(network: Tips) -> dict[str, Any]:
    more = {"num_register_tokens": network.registers, "use_swiglu_ffn": network.gated}
    return transformer_sizes(network) | more


_KIND = Kind(
    "a tower of TIPSv2",
    Tips,
    {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "mlp_ratio": 4,
        "patch_size": 14,
        "num_register_tokens": 1,
        "use_swiglu_ffn": False,
        "layer_norm_eps": 1e-6,
    },
    {"qkv_bias": True, "hidden_act": "gelu"},
    _config_sizes,
    _network_sizes,
    fields=transformer_fields,
)
FAMILY = Family(
    Tips,
    _networks(),
    image_size=448,
    timm_ends=("patch_embed.proj", "head"),
    timm_pool="token",
    is_sized=True,
    # transformers writes the authors' names; a gated MLP has those of DINOv2.
    layouts={
        "transformers": (_layout("w12", "w3", gated=True), _layout("c_fc", "c_proj", gated=False))
    },
    kinds={"tipsv2": _KIND, "tipsv2_vision_model": _KIND},
)
