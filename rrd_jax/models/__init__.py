"""The networks, by name."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.models import resnet
from rrd_jax.models.layers import Outputs

MODELS: dict[str, Callable[..., nn.Module]] = {
    name: partial(resnet.ResNet, **shape)
    for name, shape in (resnet.CIFAR | resnet.IMAGENET).items()
}


def create(name: str, num_classes: int, *, dtype: jnp.dtype = jnp.float32) -> nn.Module:
    """The network of that name, without weights.

    Args:
      name: a key of MODELS.
      num_classes: number of logits.
      dtype: what convolutions compute in; parameters, statistics, embedding and logits are
        float32 whatever it is.

    Returns:
      A module: `module.apply(variables, images, train=...)` gives Outputs for images
      [B, H, W, channels].

    Raises:
      InputError: unknown name, or no classes.
    """
    errors.check_positive(num_classes=num_classes)
    return errors.lookup("model", name, MODELS)(num_classes=num_classes, dtype=dtype)


def init(module: nn.Module, key: jax.Array, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Fresh variables {"params", "batch_stats"} for images of [H, W, channels]."""
    return module.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)


def output_shapes(module: nn.Module, image_shape: tuple[int, ...]) -> Outputs:
    """The Outputs of a batch of one image [H, W, channels], as shapes."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], images)


def count_parameters(params: Any) -> int:
    """Number of trained scalars; batch-norm statistics are not among them."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


__all__ = ["MODELS", "Outputs", "count_parameters", "create", "init", "output_shapes"]
