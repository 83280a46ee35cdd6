"""VGG with batch norm (arXiv 1409.1556) for small images, with a single linear layer."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.networks import layers
from rrd_jax.networks.contract import Outputs


class VGG(nn.Module):
    """Five blocks of 3x3 convolutions of 64, 128, 256, 512 and 512 channels.

    Attributes:
      num_classes: number of classes C.
      blocks: number of convolutions in each block.
      dtype: type of convolutions; parameters and statistics are float32.
    """

    num_classes: int
    blocks: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        conv_norm = partial(layers.conv_norm, train=train, dtype=self.dtype, use_bias=True)
        # As in the reference implementation, only images of 64 pixels are pooled a fourth time.
        pooled = (1, 2, 3, 4) if x.shape[1] == 64 else (1, 2, 3)
        maps, preactivations = [], []
        widths = (64, 128, 256, 512, 512)
        for block, (count, width) in enumerate(zip(self.blocks, widths, strict=True)):
            if block in pooled:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for i in range(count):
                before = conv_norm(x, layers.in_sequence(f"block{block}", 3 * i), width, 3)
                x = functional.relu(before)
            maps.append(x)
            preactivations.append(before)
        # As in the other families, the first map is its own preactivation.
        preactivations[0] = maps[0]
        small = nn.initializers.normal(0.01)
        classifier = layers.Classifier(self.num_classes, small, zero_bias=True, name="classifier")
        return layers.classify(x, classifier, maps, preactivations)


CIFAR = {
    name: partial(VGG, blocks=blocks)
    for name, blocks in {
        "vgg8": (1, 1, 1, 1, 1),
        "vgg11": (1, 1, 2, 2, 2),
        "vgg13": (2, 2, 2, 2, 2),
        "vgg16": (2, 2, 3, 3, 3),
        "vgg19": (2, 2, 4, 4, 4),
    }.items()
}
