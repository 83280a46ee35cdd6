"""Perception Encoder's image towers (arXiv 2504.13181), with absolute and rotary positions.

Names, modules and computation are timm's.
"""

from functools import partial

import flax.linen as nn

from rrd_jax.networks import rotary, transformer, vit
from rrd_jax.networks.family import Family, Layout, Rule, rules

_POOL_HEADS = 8


class _Block(rotary.Block):
    """A block with rotary positions."""

    rotation: rotary.Rotation

    def branches(self, hidden: int) -> tuple[nn.Module, nn.Module]:
        return (
            rotary.Attention(self.heads, self.rotation, "qkv", dtype=self.dtype, name="attn"),
            transformer.Mlp(hidden, self.activation, dtype=self.dtype, name="mlp"),
        )


class PerceptionEncoder(vit.VisionTransformer):
    """A transformer with absolute and rotary positions, and a norm before the blocks.

    An attention pool reads all tokens; the classifier, or the projection to texts, its result.

    Attributes:
      reference: numbers of rows and columns of patches for which the positions were trained.
      offset: rotary position of the first row and column.
      class_token: whether the first token is a class token.
    """

    pool: str = "attention"
    norm_first: bool = True
    epsilon: float = 1e-5
    reference: int = 24
    offset: float = 1.0
    class_token: bool = True

    @property
    def has_class_token(self) -> bool:
        """True if the first token is a class token."""
        return self.class_token

    def attention_pool(self) -> nn.Module:
        """Returns the attention pooling, which has other sizes than the blocks."""
        options = {"epsilon": self.epsilon, "dtype": self.dtype}
        return transformer.AttentionPool(_POOL_HEADS, **options, name="attn_pool")

    def block(self, grid: tuple[int, int]) -> partial:
        """Returns the factory of blocks for a grid of patches."""
        rotation = rotary.Rotation(grid, self.reference, offset=self.offset, columns_first=True)
        return partial(_Block, **super().block(grid).keywords, rotation=rotation)


class PerceptionSpatial(PerceptionEncoder):
    """A transformer without a norm after the blocks, whose embedding is the mean of the patches."""

    pool: str = "unnormed"


_GIGANTIC = {
    **{"width": 1536, "depth": 50, "heads": 16, "mlp": 8960 / 1536},
    **{"offset": 0.0, "class_token": False},
}
_SIZES = {**vit.SIZES, "gigantic": _GIGANTIC}
# Patch and image sizes.
_CORE = {
    **{"tiny": (16, 384), "small": (16, 384), "base": (16, 224)},
    **{"large": (14, 336), "gigantic": (14, 448)},
}
_SPATIAL = {
    **{"tiny": (16, 512), "small": (16, 512), "base": (16, 512)},
    **{"large": (14, 448), "gigantic": (14, 448)},
}


def _networks(
    kind: str, network: type[PerceptionEncoder], sizes: dict[str, tuple[int, int]]
) -> dict[str, partial]:
    """Returns networks from the patch and image size of each size."""
    return {
        f"vit_pe_{kind}_{size}_patch{patch}_{side}": partial(
            network, patch=patch, reference=side // patch, **_SIZES[size]
        )
        for size, (patch, side) in sizes.items()
    }


def _sides(networks: dict[str, partial]) -> dict[str, int]:
    """Returns the image sizes at the end of the networks' names."""
    return {name: int(name.rpartition("_")[2]) for name in networks}


_BLOCK = "transformer.resblocks.{}."
_AUTHORS = Layout(
    "attn_pool.probe",
    "visual.",
    (
        *rules(
            ("cls_token", "class_embedding", "token"),
            ("pos_embed", "positional_embedding", "rows"),
            ("patch_embed.proj.", "conv1."),
            ("norm_pre.", "ln_pre."),
            *((f"blocks.{{}}.norm{i}.", f"{_BLOCK}ln_{i}.") for i in (1, 2)),
            *((f"blocks.{{}}.gamma_{i}", f"{_BLOCK}ls_{i}.gamma") for i in (1, 2)),
            *(
                (f"blocks.{{}}.attn.qkv.{leaf}", f"{_BLOCK}attn.in_proj_{leaf}")
                for leaf in ("weight", "bias")
            ),
            ("blocks.{}.attn.proj.", f"{_BLOCK}attn.out_proj."),
            ("blocks.{}.mlp.fc1.", f"{_BLOCK}mlp.c_fc."),
            ("blocks.{}.mlp.fc2.", f"{_BLOCK}mlp.c_proj."),
            ("norm.", "ln_post."),
            ("attn_pool.latent", "attn_pool.probe"),
            ("attn_pool.proj.", "attn_pool.attn.out_proj."),
            ("attn_pool.norm.", "attn_pool.layernorm."),
            ("attn_pool.mlp.fc1.", "attn_pool.mlp.c_fc."),
            ("attn_pool.mlp.fc2.", "attn_pool.mlp.c_proj."),
            ("head.weight", "proj", "transposed"),
        ),
        *(
            Rule(
                (f"attn_pool.q.{leaf}", f"attn_pool.kv.{leaf}"),
                (f"attn_pool.attn.in_proj_{leaf}",),
                shares=(1, 2),
            )
            for leaf in ("weight", "bias")
        ),
    ),
    ignored=r"transformer\.|token_embedding\.|positional_embedding|ln_final\.|text_projection|text\."
    r"|logit_scale|.*rope\.",
    zeros={"head.bias": "head.weight"},
    always=True,
)
_CORE_NETWORKS = _networks("core", PerceptionEncoder, _CORE)
_SPATIAL_NETWORKS = _networks("spatial", PerceptionSpatial, _SPATIAL)
_SPATIAL_NETWORKS["vit_pe_spatial_gigantic_patch14_448"].keywords["scale"] = 0.1
FAMILY = Family(
    PerceptionEncoder,
    _CORE_NETWORKS,
    image_size=448,
    sizes=_sides(_CORE_NETWORKS),
    timm_ends=("patch_embed.proj", "head"),
    timm_pool="map",
    is_sized=True,
    layouts={"perception": (_AUTHORS,)},
)
SPATIAL = FAMILY._replace(
    network=PerceptionSpatial,
    networks=_SPATIAL_NETWORKS,
    sizes=_sides(_SPATIAL_NETWORKS),
    timm_pool="avg",
    layouts={},
)
