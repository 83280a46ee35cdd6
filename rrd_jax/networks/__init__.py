"""The networks, by name."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import errors, functional
from rrd_jax.networks import mobilenet, resnet, shufflenet, vgg, wrn
from rrd_jax.networks.layers import Classifier, Conv, Outputs
from rrd_jax.networks.remat import remat

Factory = Callable[..., nn.Module]
Network = Any

# For images of about 32 pixels, and of about 224.
CIFAR: dict[str, Factory] = (
    resnet.CIFAR | wrn.CIFAR | vgg.CIFAR | mobilenet.CIFAR | shufflenet.CIFAR
)
IMAGENET: dict[str, Factory] = resnet.IMAGENET | mobilenet.IMAGENET | shufflenet.IMAGENET
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
      dtype: what convolutions compute in; parameters, statistics, embedding and logits are
        float32 whatever it is.
      space_to_depth: whether the 7x7 convolution on images is computed as one on 2x2 pixels at
        once; with the same parameters it gives the same, but for rounding.

    Returns:
      A module: `module.apply(variables, images, train=...)` gives Outputs for images
      [B, H, W, channels].

    Raises:
      InputError: unknown name, no classes, or no 7x7 convolution.
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


def init(module: nn.Module, key: jax.Array, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Fresh variables {"params", "batch_stats"} for images of [H, W, channels]."""
    return module.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)


def count_parameters(params: Any) -> int:
    """Number of trained scalars; batch-norm statistics are not among them."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def from_embedding(embedding: jax.Array, head: Any) -> Outputs:
    """The Outputs, but for maps, of the network that has this head, from embeddings [B, D]."""
    embedding = embedding.astype(jnp.float32)
    return Outputs(functional.linear(embedding, **head), embedding, head=head)


class Summary(NamedTuple):
    """What is known of a network without running it.

    Attributes:
      outputs: of a batch of one image, as shapes.
      parameters: number of trained scalars.
      macs: multiply-adds of convolutions and linear layers for one image.
      classifier: what `outputs.head` is called among the parameters.
    """

    outputs: Outputs
    parameters: int
    macs: int
    classifier: str


@functools.cache  # it traces the network, and many ask
def summarize(module: nn.Module, image_shape: tuple[int, ...]) -> Summary:
    """The summary of a network for images of [H, W, channels]."""
    macs, classifier = 0, ""

    def count(call, args, kwargs, context):
        nonlocal macs, classifier
        y = call(*args, **kwargs)
        if isinstance(context.module, Conv | Classifier):
            kernel = context.module.variables["params"]["kernel"]
            macs += y.size // y.shape[-1] * kernel.size
        if isinstance(context.module, Classifier):
            classifier = context.module.name
        return y

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with nn.intercept_methods(count):
        outputs, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
    return Summary(outputs, count_parameters(variables["params"]), macs, classifier)


__all__ = [
    "CIFAR",
    "IMAGENET",
    "MODELS",
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
