"""RepVGG (arXiv 2101.03697) in its form for training, with timm's names and modules.

`teacher.fold`, which exports use too, merges each block into one convolution.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.networks import layers
from rrd_jax.networks.branches import Branches
from rrd_jax.networks.contract import Outputs

# Names and sizes of the convolutions that a block sums up.
_KERNELS = (("conv_kxk", 3), ("conv_1x1", 1))


class RepVGG(nn.Module):
    """A RepVGG: after the branches are merged, a plain network of 3x3 convolutions.

    Attributes:
      num_classes: number of classes C.
      stem: channels of the first block.
      widths: channels of each stage.
      blocks: number of blocks in each stage.
      dtype: type of convolutions; parameters and statistics are float32.
    """

    decay_blocks = r"stages_\d+_\d+"
    num_classes: int
    stem: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        block = partial(Branches, kernels=_KERNELS, dtype=self.dtype)
        before = block(self.stem, stride=2, name="stem")(x, train=train)
        maps, preactivations = [functional.relu(before)], [before]
        for stage, (width, count) in enumerate(zip(self.widths, self.blocks, strict=True)):
            for i in range(count):
                stride = 2 if i == 0 else 1
                layer = block(width, stride=stride, name=f"stages_{stage}_{i}")
                before = layer(functional.relu(before), train=train)
            maps.append(functional.relu(before))
            preactivations.append(before)
        return layers.Head(self.num_classes, name="head")(maps[-1], maps, preactivations)


def _repvgg(blocks: tuple[int, ...], width: float, last: float, stem: int) -> partial:
    widths = (*(int(channels * width) for channels in (64, 128, 256)), int(512 * last))
    return partial(RepVGG, stem=stem, widths=widths, blocks=blocks)


_A, _B = (2, 4, 14, 1), (4, 6, 16, 1)
IMAGENET = {
    "repvgg_a0": _repvgg(_A, 0.75, 2.5, 48),
    "repvgg_a1": _repvgg(_A, 1.0, 2.5, 64),
    "repvgg_a2": _repvgg(_A, 1.5, 2.75, 64),
    "repvgg_b0": _repvgg(_B, 1.0, 2.5, 64),
}
