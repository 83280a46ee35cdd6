"""A network and the weights that it starts from, as they are chosen."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from rrd_jax import imports, networks
from rrd_jax.settings import field, kinds, unless

DTYPES = ("auto", "float32", "bfloat16")
HEADS = ("auto", "new", "keep")


@dataclasses.dataclass(frozen=True)
class StartChoice:
    """The weights of a network before its first step.

    Attributes:
      checkpoint: Weights that it starts from, as teacher.checkpoint has them; '' for random ones.
        They are read before the first step, and never again.
      head: The classifier of weights that it starts from: keep, new, or auto, which keeps it where
        the classes are as many, and have the same names where these are known.
      variables: weights that are in memory, in place of a checkpoint; None for none.
      meta: what is known of these, as `weights.files.load` returns it.
      section: the section of the config, for messages.
    """

    checkpoint: str = field("student.checkpoint", "", kinds.Text())
    head: str = field(
        "student.head", "auto", kinds.Choice(HEADS), unused=unless("student.checkpoint")
    )
    variables: Any = dataclasses.field(default=None, compare=False, repr=False)
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    section: str = "student"

    def __bool__(self) -> bool:
        """Returns True if there are weights to start from."""
        return bool(self.checkpoint) or self.variables is not None


@dataclasses.dataclass(frozen=True)
class NetworkChoice:
    """A network by name, and the precision it computes in.

    Attributes:
      model: A name that `python -m rrd_jax.networks` lists, or an import path such as
        my_nets:Small.
      dtype: of its convolutions.
      space_to_depth: Computes the 7x7 convolutions that ImageNet's ResNets start with on 2x2 pixels
        at once, which differs by rounding only. Some accelerators are quicker with it, a CPU is
        slower.
      options: Arguments of a network by import path; embedding_of says where its embedding is.
      prefix: the section of its options, such as "student.options.", for messages.
      network: a network made in Python, which replaces all but the name.
      drop_path: Share of images for which the last block is left out in training; of the blocks
        before it in proportion to their depth. For transformers, ConvNeXt, EfficientNet,
        MobileNetV3 and V4, and RegNetY.
    """

    model: str = field("student.model", "", kinds.Text())
    dtype: jnp.dtype = jnp.float32
    space_to_depth: bool = field("space_to_depth", False, kinds.Flag())
    options: Mapping[str, Any] = field("student.options", {}, kinds.Mapped())
    prefix: str = ""
    network: networks.Network | None = None
    drop_path: float = field("student.drop_path", 0.0, kinds.PART)

    def create(self, num_classes: int) -> networks.Network:
        """The network, without weights.

        Args:
          num_classes: C; 0 for none, where a user's network has one, which nothing trains.
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
        """The parameters with an entry for each class, and which of their axes is the classes'.

        Args:
          network: as this choice makes it.
          image_shape: (H, W, channels).

        Returns:
          {path such as fc/kernel: axis}; empty for a network made in Python that reports no head.
        """
        summary = networks.summarize(network, image_shape)
        if isinstance(summary.outputs.logits, tuple):
            return {}
        if summary.classifier:
            head = "/".join(summary.classifier)
            return {f"{head}/kernel": 1, f"{head}/bias": 0}
        if self.network is not None:
            return {}
        more = self.create(summary.outputs.logits.shape[-1] + 1)
        pairs = [
            networks.named_shapes(of.variables["params"])
            for of in (summary, networks.summarize(more, image_shape))
        ]
        axes = {}
        for name in pairs[0].keys() & pairs[1].keys():
            shapes = pairs[0][name], pairs[1][name]
            differing = [i for i, (a, b) in enumerate(zip(*shapes, strict=False)) if a != b]
            axes |= dict.fromkeys([name] if differing else [], (differing or [0])[0])
        return axes
