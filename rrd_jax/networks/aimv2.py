"""AIMv2's image towers (arXiv 2411.14402): transformers with RMS norms and gated MLPs.

Names, modules and computation are timm's.
"""

from functools import partial
from typing import Any

import flax.linen as nn

from rrd_jax.networks import transformer, vit
from rrd_jax.networks.family import (
    Family,
    Kind,
    Layout,
    fused,
    picked,
    rules,
    transformer_fields,
    transformer_sizes,
)


class _Block(vit.Block):
    """A block with RMS norms and a gated MLP, without biases."""

    def norm(self, name: str) -> nn.Module:
        return transformer.RmsNorm(self.epsilon, name=name)

    def branches(self, hidden: int) -> tuple[nn.Module, nn.Module]:
        return (
            transformer.Attention(self.heads, self.dtype, use_bias=False, name="attn"),
            transformer.GatedMlp(hidden, self.dtype, use_bias=False, name="mlp"),
        )


class AimV2(vit.VisionTransformer):
    """A transformer without a class token, whose embedding is the mean of the normed tokens."""

    mlp: float = 2.75
    pool: str = "normed"
    epsilon: float = 1e-5

    def norm(self, name: str) -> nn.Module:
        """Returns a norm outside the blocks."""
        return transformer.RmsNorm(self.epsilon, name=name)

    def patches(self) -> nn.Module:
        """Returns the linear map of patches, which a norm follows."""
        norm = partial(transformer.RmsNorm, self.epsilon)
        return transformer.Patches(
            self.patch, self.width, self.dtype, norm=norm, name="patch_embed"
        )

    def block(self, grid: tuple[int, int]) -> partial:
        """Returns the factory of blocks for a grid of patches."""
        return partial(_Block, **super().block(grid).keywords)


# Widths, numbers of heads, and hidden widths of the MLPs as multiples of the width.
_SHAPES = {
    "large": (1024, 8, 2.75),
    "huge": (1536, 12, 8 / 3),
    "1b": (2048, 16, 2.75),
    "3b": (3072, 24, 8 / 3),
}
_SIDES = (224, 336, 448)


def _layout(
    marker: str, names: dict[str, str], block: str, inside: dict[str, str], qkv: Any
) -> Layout:
    """Builds a layout from names outside blocks, the prefix of blocks, and names in a block."""
    return Layout(
        marker,
        "",
        (
            *rules(
                *names.items(),
                *((f"blocks.{{}}.{name}", block + other) for name, other in inside.items()),
            ),
            *qkv,
        ),
    )


_TRANSFORMERS = _layout(
    "embeddings.rms_norm.weight",
    {
        "patch_embed.proj.": "embeddings.patch_embed.",
        "patch_embed.norm.": "embeddings.rms_norm.",
        "norm.": "rms_norm.",
    },
    "encoder.layers.{}.",
    {
        **{f"norm{i}.": f"rms_norm{i}." for i in (1, 2)},
        "attn.proj.": "attention.out_proj.",
        **{"mlp.fc1_g.": "ffn.gate_proj.", "mlp.fc1_x.": "ffn.up_proj."},
        "mlp.fc2.": "ffn.down_proj.",
    },
    (
        *rules(("pos_embed", "embeddings.position_embedding.weight", "rows")),
        fused("blocks.{}.attn.qkv.", "encoder.layers.{}.attention.{}_proj.", tuple("qkv")),
    ),
)
_AUTHORS = _layout(
    "preprocessor.patchifier.norm.weight",
    {
        **{f"patch_embed.{name}.": f"preprocessor.patchifier.{name}." for name in ("proj", "norm")},
        "pos_embed": "preprocessor.pos_embed",
        "norm.": "trunk.post_trunk_norm.",
    },
    "trunk.blocks.{}.",
    {
        **{f"norm{i}.": f"norm_{i}." for i in (1, 2)},
        **{name: name for name in ("attn.qkv.", "attn.proj.", "mlp.fc2.")},
        **{"mlp.fc1_g.": "mlp.fc1.", "mlp.fc1_x.": "mlp.fc3."},
    },
    (),
)
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


_KIND = Kind(
    "an image tower of AIMv2",
    AimV2,
    {
        **dict(zip(_SIZES, (1024, 24, 8, 2816), strict=True)),
        **{"patch_size": 14, "rms_norm_eps": 1e-5, "use_head": True},
    },
    {
        **{"use_head": False, "is_native": False, "qkv_bias": False, "mlp_bias": False},
        "hidden_act": "silu",
    },
    picked(*_SIZES, "patch_size"),
    transformer_sizes,
    epsilon="rms_norm_eps",
    fields=transformer_fields,
)
FAMILY = Family(
    AimV2,
    {
        f"aimv2_{size}_patch14_{side}": partial(
            AimV2, patch=14, width=width, depth=24, heads=heads, mlp=mlp
        )
        for size, (width, heads, mlp) in _SHAPES.items()
        for side in _SIDES
    },
    image_size=224,
    sizes={f"aimv2_{size}_patch14_{side}": side for size in _SHAPES for side in _SIDES},
    timm_ends=("patch_embed.proj", "head"),
    is_sized=True,
    layouts={"transformers": (_TRANSFORMERS,), "aimv2": (_AUTHORS,)},
    kinds={"aimv2_vision_model": _KIND},
)
