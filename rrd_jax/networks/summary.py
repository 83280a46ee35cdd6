"""What is known of a network without running it."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.layers import Classifier, Conv


class Summary(NamedTuple):
    """Shapes and costs of a network.

    Attributes:
      outputs: Outputs of a batch of one image, as shapes.
      parameters: number of trained scalars.
      macs: multiply-adds of convolutions and linear layers for one image.
      classifier: name of `outputs.head` among the parameters.
    """

    outputs: Outputs
    parameters: int
    macs: int
    classifier: str


def count_parameters(params: Any) -> int:
    """Number of trained scalars; batch-norm statistics are not among them."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@functools.cache  # it traces the network, and many ask
def summarize(network: nn.Module, image_shape: tuple[int, ...]) -> Summary:
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
        outputs, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
    return Summary(outputs, count_parameters(variables["params"]), macs, classifier)
