"""EVA-02 (arXiv 2303.11331): transformers with absolute and rotary positions, and gated MLPs.

Names, modules and computation are timm's.
"""

from functools import partial

import flax.linen as nn
import jax

from rrd_jax.networks import rotary, transformer, vit
from rrd_jax.networks.family import Family


class _Block(rotary.Block):
    """A block with rotary positions and a gated MLP."""

    rotation: rotary.Rotation
    separate: bool

    def branches(self, hidden: int) -> tuple[nn.Module, nn.Module]:
        attention = rotary.Attention(
            self.heads, self.rotation, "qv", self.separate, self.dtype, name="attn"
        )
        if self.separate:
            norm = partial(transformer.LayerNorm, self.epsilon)
            return attention, transformer.GatedMlp(hidden, self.dtype, norm=norm, name="mlp")
        mlp = transformer.Mlp(2 * hidden, jax.nn.silu, True, self.dtype, name="mlp")
        return attention, mlp


class Eva02(vit.VisionTransformer):
    """A transformer with absolute and rotary positions, whose embedding is the mean of the patches.

    Attributes:
      reference: numbers of rows and columns of patches for which the positions were trained.
      separate: whether queries, keys and values, and gate and input of the MLPs, have separate
        matrices, and whether the MLPs have a norm.
    """

    mlp: float = 8 / 3
    pool: str = "mean"
    reference: int = 16
    separate: bool = False

    @property
    def has_class_token(self) -> bool:
        """True if the first token is a class token."""
        return True

    def block(self, grid: tuple[int, int]) -> partial:
        """Returns the factory of blocks for a grid of patches."""
        rotation = rotary.Rotation(grid, self.reference)
        options = super().block(grid).keywords
        return partial(_Block, **options, rotation=rotation, separate=self.separate)


_SIZES = {
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "base": {"width": 768, "depth": 12, "heads": 12, "separate": True},
    "large": {"width": 1024, "depth": 24, "heads": 16, "separate": True},
}
FAMILY = Family(
    Eva02,
    {
        f"eva02_{size}_patch14_224": partial(Eva02, patch=14, **options)
        for size, options in _SIZES.items()
    },
    image_size=224,
    timm_ends=("patch_embed.proj", "head"),
    is_sized=True,
)
