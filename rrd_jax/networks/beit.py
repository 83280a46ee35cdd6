"""BEiT v2 (arXiv 2208.06366): transformers with relative positions.

Names, modules and computation are timm's.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors
from rrd_jax.networks import rotary, transformer, vit
from rrd_jax.networks.family import (
    Config,
    Family,
    Kind,
    Layout,
    fused,
    rules,
    transformer_fields,
    transformer_sizes,
)


def relative_positions(window: int) -> np.ndarray:
    """Returns the rows of a table of relative positions: [N, N], N = 1 + window * window.

    The table has a row for each difference of two positions, then one for the class token as query,
    one for the class token as key, and one for both.

    Args:
      window: numbers of rows and columns of patches.
    """
    side = 2 * window - 1
    grid = np.stack(np.meshgrid(*2 * [np.arange(window)], indexing="ij"), axis=-1).reshape(-1, 2)
    differences = grid[:, None] - grid[None] + window - 1
    rows = np.pad(differences @ (side, 1), ((1, 0), (1, 0)))
    rows[0], rows[:, 0] = side**2, side**2 + 1
    rows[0, 0] = side**2 + 2
    return rows


class _Attention(rotary.Attention):
    """Self-attention with a trained bias for each relative position and head."""

    window: int = 14

    def score_bias(self) -> jax.Array:
        shape = ((2 * self.window - 1) ** 2 + 3, self.heads)
        table = self.param("relative_position_bias_table", nn.initializers.zeros, shape)
        bias = jnp.moveaxis(table[relative_positions(self.window)], 2, 0)[None]
        return bias.astype(self.dtype)


class _Block(rotary.Block):
    """A block with relative positions."""

    window: int

    def branches(self, hidden: int) -> tuple[nn.Module, nn.Module]:
        attention = _Attention(
            self.heads, None, "qv", dtype=self.dtype, window=self.window, name="attn"
        )
        return attention, transformer.Mlp(hidden, dtype=self.dtype, name="mlp")


class Beit(vit.VisionTransformer):
    """A transformer with relative positions, for images of one size.

    Attributes:
      window: numbers of rows and columns of patches.
    """

    pool: str = "mean"
    scale: float = 1e-5
    window: int = 14

    @property
    def has_class_token(self) -> bool:
        """True if the first token is a class token."""
        return True

    def add_positions(self, tokens: list[jax.Array], patches: jax.Array) -> jax.Array:
        """Returns all tokens; positions are added in the attention."""
        return jnp.concatenate([*tokens, patches], axis=1)

    def block(self, grid: tuple[int, int]) -> partial:
        """Returns the factory of blocks for a grid of patches.

        Raises:
          InputError: the images do not have the size of the relative positions.
        """
        if grid != (self.window, self.window):
            height, width = (self.patch * side for side in grid)
            raise errors.InputError(
                f"images of {height}x{width} pixels do not fit BEiT's relative positions; set the"
                f" image size to {self.patch * self.window}, such as teacher.image_size"
            )
        return partial(_Block, **super().block(grid).keywords, window=self.window)


_BLOCK = "encoder.layer.{}."
_LAYOUT = Layout(
    "encoder.layer.0.lambda_1",
    "beit.",
    (
        *rules(
            ("cls_token", "embeddings.cls_token"),
            ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
            *((f"blocks.{{}}.gamma_{i}", f"{_BLOCK}lambda_{i}") for i in (1, 2)),
            ("blocks.{}.norm1.", f"{_BLOCK}layernorm_before."),
            ("blocks.{}.norm2.", f"{_BLOCK}layernorm_after."),
            ("blocks.{}.attn.q_bias", f"{_BLOCK}attention.attention.query.bias"),
            ("blocks.{}.attn.v_bias", f"{_BLOCK}attention.attention.value.bias"),
            (
                "blocks.{}.attn.relative_position_bias_table",
                f"{_BLOCK}attention.attention.relative_position_bias.relative_position_bias_table",
            ),
            ("blocks.{}.attn.proj.", f"{_BLOCK}attention.output.dense."),
            ("blocks.{}.mlp.fc1.", f"{_BLOCK}intermediate.dense."),
            ("blocks.{}.mlp.fc2.", f"{_BLOCK}output.dense."),
            ("fc_norm.", "pooler.layernorm."),
        ),
        fused(
            "blocks.{}.attn.qkv.weight",
            f"{_BLOCK}attention.attention.{{}}.weight",
            ("query", "key", "value"),
        ),
    ),
    rules(("head.", "classifier.")),
    ignored=r"embeddings\.mask_token|.*relative_position_index",
)
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def _config_sizes(config: Config) -> dict[str, Any]:
    window = config["image_size"] // config["patch_size"]
    return {name: config[name] for name in (*_SIZES, "patch_size")} | {"window": window}


def _network_sizes(network: Beit) -> dict[str, Any]:
    return transformer_sizes(network) | {"window": network.window}


_KIND = Kind(
    "a BEiT",
    Beit,
    {
        **dict(zip(_SIZES, (768, 12, 12, 3072), strict=True)),
        **{"patch_size": 16, "image_size": 224, "layer_norm_eps": 1e-12},
        **{"use_relative_position_bias": False, "use_mean_pooling": True},
    },
    {
        **{"use_relative_position_bias": True, "use_mean_pooling": True, "hidden_act": "gelu"},
        **{"use_shared_relative_position_bias": False, "use_absolute_position_embeddings": False},
    },
    _config_sizes,
    _network_sizes,
    fields=lambda sizes: {**transformer_fields(sizes), "window": sizes["window"]},
)
FAMILY = Family(
    Beit,
    {
        f"beitv2_{size}_patch16_224": partial(Beit, patch=16, **vit.SIZES[size])
        for size in ("base", "large")
    },
    image_size=224,
    timm_ends=("patch_embed.proj", "head"),
    is_sized=True,
    layouts={"transformers": (_LAYOUT,)},
    kinds={"beit": _KIND},
)
