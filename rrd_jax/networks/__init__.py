"""The networks, by name.

A new network is a line in `CIFAR` or `IMAGENET` of its family's file. A new family is a file with
such tables, and its name in the tables here. A user's network comes by import path or as an object.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import errors, functional, imports
from rrd_jax.networks import (
    brought,
    convnext,
    inverted,
    mobilenet,
    regnet,
    resnet,
    shufflenet,
    vgg,
    vit,
    wrn,
)
from rrd_jax.networks.brought import (
    Brought,
    adapt,
    from_equinox,
    from_functions,
    from_linen,
    from_nnx,
    is_network,
)
from rrd_jax.networks.check import check, check_values, check_weights, doubt
from rrd_jax.networks.contract import Network, Outputs
from rrd_jax.networks.freezing import freeze, frozen_parts
from rrd_jax.networks.positions import NAME as POSITIONS
from rrd_jax.networks.positions import fit as fit_positions
from rrd_jax.networks.remat import remat
from rrd_jax.networks.summary import (
    Summary,
    count_parameters,
    describe_maps,
    head,
    leaf_name,
    multiply_adds,
    named_shapes,
    summarize,
)

Factory = Callable[..., nn.Module]

# Published for images of 32 pixels.
CIFAR: dict[str, Factory] = {
    **resnet.CIFAR,
    **wrn.CIFAR,
    **vgg.CIFAR,
    **mobilenet.CIFAR,
    **shufflenet.CIFAR,
    **vit.CIFAR,
}
# Published for images of ImageNet.
IMAGENET: dict[str, Factory] = {
    **resnet.IMAGENET,
    **mobilenet.IMAGENET,
    **shufflenet.IMAGENET,
    **convnext.IMAGENET,
    **inverted.IMAGENET,
    **regnet.IMAGENET,
    **vit.IMAGENET,
}
# Pixels of a side of these, where it is not 224.
_SIDES = {**inverted.SIDES, **vit.SIDES}
MODELS = CIFAR | IMAGENET


def create(
    name: str,
    num_classes: int,
    *,
    dtype: jnp.dtype = jnp.float32,
    space_to_depth: bool = False,
    options: Mapping[str, Any] | None = None,
    prefix: str = "",
) -> Network:
    """The network of that name, without weights.

    Args:
      name: a key of MODELS, or an import path MODULE:NAME; see `networks.brought.create`.
      num_classes: number of logits; 0 for one of MODELS without a classifier, whose logits are ().
      dtype: what convolutions compute in. Parameters, statistics, embedding and logits are always
        float32.
      space_to_depth: whether the 7x7 convolution on images is computed as one on squares of 2x2
        pixels; the same parameters give the same results, but for rounding.
      options: of a network by import path.
      prefix: of their names in messages, such as "student.options.".

    Returns:
      A Network for images [B, H, W, channels].

    Raises:
      InputError: the name or an option is unknown, num_classes is no count, or there is no 7x7
        convolution to compute from space to depth.

    Examples:
      >>> network = create("resnet8", num_classes=10)
      >>> variables = init(network, jax.random.key(0), (32, 32, 3))
      >>> network.apply(variables, jnp.zeros((2, 32, 32, 3))).embedding.shape
      (2, 64)
    """
    if num_classes != 0 or imports.is_path(name):
        errors.check_counts(num_classes=num_classes)
    if imports.is_path(name):
        network = brought.create(name, num_classes, dtype, options or {}, prefix)
    else:
        network = errors.lookup("model", name, MODELS)(num_classes=num_classes, dtype=dtype)
        imports.check(f"network '{name}'", lambda: None, options or {}, prefix=prefix)
    if not space_to_depth:
        return network
    if not getattr(network, "imagenet_stem", False):
        raise errors.InputError(
            f"space_to_depth is for networks that start with a 7x7 convolution, not for '{name}'"
        )
    return network.clone(space_to_depth=True)


def image_size(name: str) -> int:
    """Height and width of the images that network `name` was published for."""
    return 32 if name in CIFAR else _SIDES.get(name, 224)


def init(network: Network, key: jax.Array, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Fresh variables {"params", "batch_stats"} for images of [H, W, channels]."""
    variables = network.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)
    return {"batch_stats": {}, **variables}


def from_embedding(embedding: jax.Array, head: Any) -> Outputs:
    """The Outputs, without maps, of a network with this head that computed this embedding.

    Args:
      embedding: [B, D], of any float type.
      head: {"kernel": [D, C], "bias": [C]}.
    """
    embedding = embedding.astype(jnp.float32)
    return Outputs(functional.linear(embedding, **head), embedding, head=head)


__all__ = [
    "CIFAR",
    "IMAGENET",
    "MODELS",
    "POSITIONS",
    "Brought",
    "Network",
    "Outputs",
    "Summary",
    "adapt",
    "check",
    "check_values",
    "check_weights",
    "count_parameters",
    "create",
    "describe_maps",
    "doubt",
    "fit_positions",
    "freeze",
    "from_embedding",
    "from_equinox",
    "from_functions",
    "from_linen",
    "from_nnx",
    "frozen_parts",
    "head",
    "image_size",
    "init",
    "is_network",
    "leaf_name",
    "multiply_adds",
    "named_shapes",
    "remat",
    "summarize",
]
