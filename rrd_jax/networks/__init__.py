"""The networks, by name.

A new network is a line in `CIFAR` or `IMAGENET` of its family's file. A new family is a file with
such tables, and its name in the tables here.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import errors, functional
from rrd_jax.networks import mobilenet, resnet, shufflenet, vgg, wrn
from rrd_jax.networks.contract import Network, Outputs
from rrd_jax.networks.remat import remat
from rrd_jax.networks.summary import Summary, count_parameters, summarize

Factory = Callable[..., nn.Module]

# Published for images of 32 pixels.
CIFAR: dict[str, Factory] = {
    **resnet.CIFAR,
    **wrn.CIFAR,
    **vgg.CIFAR,
    **mobilenet.CIFAR,
    **shufflenet.CIFAR,
}
# Published for images of 224 pixels.
IMAGENET: dict[str, Factory] = {
    **resnet.IMAGENET,
    **mobilenet.IMAGENET,
    **shufflenet.IMAGENET,
}
MODELS = CIFAR | IMAGENET


def create(
    name: str,
    num_classes: int,
    *,
    dtype: jnp.dtype = jnp.float32,
    space_to_depth: bool = False,
) -> nn.Module:
    """The network of that name, without weights.

    Args:
      name: a key of MODELS.
      num_classes: number of logits.
      dtype: what convolutions compute in. Parameters, statistics, embedding and logits are always
        float32.
      space_to_depth: whether the 7x7 convolution on images is computed as one on squares of 2x2
        pixels; the same parameters give the same results, but for rounding.

    Returns:
      A Network for images [B, H, W, channels].

    Raises:
      InputError: the name is unknown, num_classes is not above 0, or there is no 7x7 convolution
        to compute from space to depth.
    """
    errors.check_positive(num_classes=num_classes)
    network = errors.lookup("model", name, MODELS)(num_classes=num_classes, dtype=dtype)
    if not space_to_depth:
        return network
    if not getattr(network, "imagenet_stem", False):
        raise errors.InputError(
            f"space_to_depth is for networks that start with a 7x7 convolution, not for '{name}'"
        )
    return network.clone(space_to_depth=True)


def image_size(name: str) -> int:
    """Height and width of the images that network `name` was published for."""
    return 32 if name in CIFAR else 224


def init(network: Network, key: jax.Array, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Fresh variables {"params", "batch_stats"} for images of [H, W, channels]."""
    return network.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)


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
    "Network",
    "Outputs",
    "Summary",
    "count_parameters",
    "create",
    "from_embedding",
    "image_size",
    "init",
    "remat",
    "summarize",
]
