"""MobileOne (arXiv 2206.04040) in its form for training, with timm's names and modules.

`teacher.fold`, which exports use too, merges the branches of each convolution.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.networks import layers
from rrd_jax.networks.branches import Branches
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.family import Family


class MobileOne(nn.Module):
    """A MobileOne: pairs of a depthwise 3x3 and a 1x1 convolution, each followed by a ReLU.

    Attributes:
      num_classes: number of classes C.
      stem: channels of the first convolution.
      widths: channels of each stage.
      blocks: number of pairs in each stage.
      squeezed: number of pairs with squeeze and excitation at the end of each stage.
      branches: number of convolutions of the same size that each convolution sums up in training,
        next to a 1x1 convolution and the identity.
      dtype: type of convolutions; parameters and statistics are float32.
    """

    decay_blocks = r"stages_\d+_\d+"
    num_classes: int
    stem: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...] = (2, 8, 10, 1)
    squeezed: tuple[int, ...] = (0, 0, 0, 0)
    branches: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        kernels = (("conv_kxk_0", 3), ("conv_scale", 1))
        before = Branches(self.stem, kernels, 2, dtype=self.dtype, name="stem")(x, train=train)
        maps, preactivations = [functional.relu(before)], [before]
        for stage, (width, count) in enumerate(zip(self.widths, self.blocks, strict=True)):
            for i in range(2 * count):
                is_depthwise, x = i % 2 == 0, functional.relu(before)
                size, features = (3, x.shape[-1]) if is_depthwise else (1, width)
                kernels = tuple((f"conv_kxk_{j}", size) for j in range(self.branches))
                is_squeezed = i >= 2 * (count - self.squeezed[stage])
                before = Branches(
                    features,
                    kernels + (("conv_scale", 1),) * is_depthwise,
                    stride=2 if i == 0 else 1,
                    groups=features if is_depthwise else 1,
                    squeeze=max(8, (features // 16 + 4) // 8 * 8) if is_squeezed else 0,
                    squeeze_name="attn",
                    dtype=self.dtype,
                    name=f"stages_{stage}_{i}",
                )(x, train=train)
            maps.append(functional.relu(before))
            preactivations.append(before)
        head = layers.Head(self.num_classes, nn.initializers.normal(0.01), True, name="head")
        return head(maps[-1], maps, preactivations)


_WIDTHS = {
    "s0": (48, 128, 256, 1024),
    "s1": (96, 192, 512, 1280),
    "s2": (96, 256, 640, 2048),
    "s3": (128, 320, 768, 2048),
    "s4": (192, 448, 896, 2048),
}
_OPTIONS = {"s0": {"stem": 48, "branches": 4}, "s4": {"squeezed": (0, 0, 5, 1)}}
FAMILY = Family(
    MobileOne,
    {
        f"mobileone_{size}": partial(
            MobileOne, **{"stem": 64, **_OPTIONS.get(size, {})}, widths=widths
        )
        for size, widths in _WIDTHS.items()
    },
    image_size=224,
    timm_ends=("stem.conv_kxk.0.conv", "head.fc"),
)
