"""Choices of a network and its initial weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from rrd_jax import imports, networks
from rrd_jax.settings import field, kinds, unless

DTYPES = ("auto", "float32", "bfloat16")
HEADS = ("auto", "new", "keep")
POSITIONS = kinds.Auto(kinds.Choice(networks.POSITION_WAYS))
POSITIONS_OF_RUNS = {"legacy": "timm", "choose": lambda values: networks.POSITION_WAYS[0]}


@dataclasses.dataclass(frozen=True)
class StartChoice:
    """The weights of a network before its first step.

    Attributes:
      checkpoint: Initial weights, in any form that teacher.checkpoint accepts; '' for random
        weights. Read once, before the first step.
      head: Classifier of student.checkpoint. keep: load it; new: start from random weights; auto:
        keep it if the number of classes, and their names if known, are the same.
      variables: weights in memory that replace a checkpoint, or None.
      meta: metadata of these weights, as returned by `weights.files.load`.
      section: the section of the config in messages.
    """

    checkpoint: str = field("student.checkpoint", "", kinds.Path(bucket=True, repository=True))
    head: str = field(
        "student.head", "auto", kinds.Choice(HEADS), unused=unless("student.checkpoint")
    )
    variables: Any = dataclasses.field(default=None, compare=False, repr=False)
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    section: str = "student"

    def __bool__(self) -> bool:
        """Returns True if the initial weights are not random."""
        return bool(self.checkpoint) or self.variables is not None


@dataclasses.dataclass(frozen=True)
class NetworkChoice:
    """A network by name, and its precision.

    Attributes:
      model: Name of a network (`python -m rrd_jax.networks` lists them), or an import path such as
        my_nets:Small.
      dtype: type of its convolutions.
      space_to_depth: Computes the first 7x7 convolution of ImageNet's ResNets on blocks of 2x2
        pixels. Faster on some accelerators, slower on a CPU; results differ by rounding.
      options: Fields of a built-in network, such as width, depth and heads of a transformer, or
        widths and blocks of a ConvNeXt; or arguments of a network given by import path.
        embedding_of: path of the submodule whose result is the embedding; patches_of: of the
        submodule whose result is the patches.
      prefix: prefix of the options' names in messages, such as "student.options.".
      network: a Network object, which replaces all fields except the name.
      drop_path: Drop-path rate of the last block: the share of images for which the block is
        skipped in training. The rates of earlier blocks are proportional to their depth. For
        transformers, ConvNeXt, EdgeNeXt, EfficientNet, FastViT, TinyViT, MobileNetV3 and V4, and
        RegNetY.
      positions: Resampling of the position embeddings of TIPSv2, and of DINOv2 without registers,
        for images of another size than those of the weights: as the authors, as transformers, or as
        timm. auto: authors, and timm in workdirs of version 0.2.0.
    """

    model: str = field("student.model", "", kinds.Text())
    dtype: jnp.dtype = jnp.float32
    space_to_depth: bool = field("space_to_depth", False, kinds.Flag())
    options: Mapping[str, Any] = field("student.options", {}, kinds.Mapped())
    prefix: str = ""
    network: networks.Network | None = None
    drop_path: float = field("student.drop_path", 0.0, kinds.PART)
    positions: str = field("student.positions", kinds.AUTO, POSITIONS, **POSITIONS_OF_RUNS)

    def create(self, num_classes: int) -> networks.Network:
        """Creates the network, without weights.

        Args:
          num_classes: number of classes C; 0 for no classifier, for which a custom network has one
            class that is not trained.
        """
        if self.network is not None:
            networks.check_drop_path(self.network, self.drop_path, self.model, self.prefix)
            return self.network
        return networks.create(
            self.model,
            num_classes or int(imports.is_path(self.model)),
            dtype=self.dtype,
            space_to_depth=self.space_to_depth,
            options=self.options,
            prefix=self.prefix,
            drop_path=self.drop_path,
        )

    def class_axes(
        self, network: networks.Network, image_shape: tuple[int, int, int]
    ) -> dict[str, int]:
        """Returns the parameters with an entry per class, and the axis of the classes.

        Args:
          network: the result of `create`.
          image_shape: (H, W, channels).

        Returns:
          {path such as fc/kernel: axis}; empty for a Network object that reports no head.
        """
        summary = networks.summarize(network, image_shape)
        if isinstance(summary.outputs.logits, tuple):
            return {}
        if summary.classifier:
            head = "/".join(summary.classifier)
            return {f"{head}/kernel": 1, f"{head}/bias": 0}
        if self.network is not None:
            return {}
        wider = self.create(summary.outputs.logits.shape[-1] + 1)
        pairs = [
            networks.named_shapes(summarized.variables["params"])
            for summarized in (summary, networks.summarize(wider, image_shape))
        ]
        axes = {}
        for name in pairs[0].keys() & pairs[1].keys():
            shapes = pairs[0][name], pairs[1][name]
            differing = [i for i, (a, b) in enumerate(zip(*shapes, strict=False)) if a != b]
            axes |= dict.fromkeys([name] if differing else [], (differing or [0])[0])
        return axes
