"""RegNetY (arXiv 2003.13678), with timm's names and modules."""

from collections import Counter
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import functional
from rrd_jax.networks import layers, transformer
from rrd_jax.networks.contract import Outputs


class _Block(layers.Block):
    """1x1, grouped 3x3 and 1x1 convolutions, with squeeze and excitation before the last.

    Returns the result, and the result before its last ReLU.
    """

    width: int
    stride: int
    group: int
    drop: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        def conv(x, name, kernel=1, stride=1, group=0):
            groups = self.width // group if group else 1
            layer = layers.ConvNorm(self.width, kernel, stride, groups, self.dtype, name=name)
            return layer(x, train=train)

        y = functional.relu(conv(x, "conv1"))
        y = functional.relu(conv(y, "conv2", 3, self.stride, self.group))
        inside = round(x.shape[-1] / 4)
        squeeze = layers.Squeeze(
            inside, functional.relu, nn.sigmoid, ("fc1", "fc2"), self.dtype, name="se"
        )
        y = conv(squeeze(y), "conv3")
        if x.shape != y.shape:
            x = conv(x, "downsample", stride=self.stride)
        y = x + transformer.DropPath(self.drop, name="drop_path")(y, train=train)
        return functional.relu(y), y


class _Stage(nn.Module):
    """Blocks of one width."""

    width: int
    group: int
    drops: tuple[float, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        before = x
        for i, drop in enumerate(self.drops):
            stride = 2 if i == 0 else 1
            block = _Block(self.width, stride, self.group, drop, self.dtype, name=f"b{i + 1}")
            x, before = block(x, train=train)
        return x, before


class RegNetY(nn.Module):
    """A RegNet with squeeze and excitation, whose widths follow a rule.

    Attributes:
      num_classes: number of classes C.
      depth: number of blocks.
      first: initial width of the rule.
      slope: difference in width between consecutive blocks, before widths are rounded.
      factor: ratio of the widths of consecutive stages.
      group: number of channels per group.
      least: minimum ratio of a stage's width after and before rounding to whole groups, as in
        torchvision, which rounds halves up; 0 to round as in timm.
      drop_path: drop-path rate of the last block; the rates of earlier blocks are proportional to
        their depth.
      dtype: type of convolutions; parameters and statistics are float32.
    """

    decay_blocks = r"s\d+/b\d+"
    num_classes: int
    depth: int
    first: int
    slope: float
    factor: float
    group: int
    least: float = 0.0
    drop_path: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        stem = layers.ConvNorm(32, 3, 2, 1, self.dtype, name="stem")
        before = stem(x, train=train)
        x = functional.relu(before)
        maps, preactivations = [x], [before]
        drops = iter(transformer.drop_rates(self.drop_path, self.depth))
        for stage, (width, count) in enumerate(self.stages(), start=1):
            group = min(self.group, width)
            rates = tuple(next(drops) for _ in range(count))
            layer = _Stage(width, group, rates, self.dtype, name=f"s{stage}")
            x, before = layer(x, train=train)
            maps.append(x)
            preactivations.append(before)
        return layers.Head(self.num_classes, name="head")(x, maps, preactivations)

    def stages(self) -> list[tuple[int, int]]:
        """Returns the width and number of blocks of each stage."""
        linear_widths = np.arange(self.depth, dtype=np.float32) * self.slope + self.first
        steps = np.round(np.log(linear_widths / self.first) / np.log(self.factor))
        widths = np.round(self.first * self.factor**steps / 8) * 8
        counts = sorted(Counter(widths.astype(int).tolist()).items())
        return [(self._round_to_groups(width), count) for width, count in counts]

    def _round_to_groups(self, width: int) -> int:
        """Rounds a width to a multiple of the group size."""
        if not self.least:
            return round(width / self.group) * self.group
        near = int(width + self.group / 2) // self.group * self.group
        return near if near >= self.least * width else near + self.group


def _regnet(depth: int, first: int, slope: float, factor: float, group: int, **more) -> partial:
    return partial(
        RegNetY, depth=depth, first=first, slope=slope, factor=factor, group=group, **more
    )


IMAGENET = {
    "regnety_002": _regnet(13, 24, 36.44, 2.49, 8),
    "regnety_004": _regnet(16, 48, 27.89, 2.09, 8),
    "regnety_006": _regnet(15, 48, 32.54, 2.32, 16),
    "regnety_008": _regnet(14, 56, 38.84, 2.4, 16),
    "regnety_008_tv": _regnet(14, 56, 38.84, 2.4, 16, least=0.9),
    "regnety_016": _regnet(27, 48, 20.71, 2.65, 24),
}
