"""Frozen networks whose batch norms are part of their convolutions."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from rrd_jax import functional
from rrd_jax.networks import Network, layers
from rrd_jax.teacher import ensemble

_Path = tuple[str, ...]


def fold(
    network: Network, variables: dict[str, Any], image_shape: tuple[int, ...]
) -> dict[str, Any]:
    """Variables with which a network evaluates as before, in fewer operations.

    A batch norm behind a convolution scales by fixed numbers. They are multiplied into the kernel,
    in float32, and only a shift is left. Kernels of convolutions are then cast to the type that
    they compute in. Batch norms elsewhere, and the classifier, stay as they are.

    Args:
      network: of `networks.create`, or an Ensemble.
      variables: the network's weights.
      image_shape: (H, W, channels) of any images that the network takes.

    Returns:
      {"params", "batch_stats"} for `network.apply(..., train=False)`; they cannot be trained.
    """
    if isinstance(network, ensemble.Ensemble):
        members = ensemble.members(network, variables)
        return ensemble.stack_variables([fold(*member, image_shape) for member in members])
    params, stats = (traverse_util.flatten_dict(variables[n]) for n in ("params", "batch_stats"))
    for conv, norm, epsilon in _pairs(network, image_shape):
        factor = params.pop((*norm, "scale")) * jax.lax.rsqrt(stats.pop((*norm, "var")) + epsilon)
        params[*norm, "bias"] = params[*norm, "bias"] - stats.pop((*norm, "mean")) * factor
        kernel = params[*conv, "kernel"]
        params[*conv, "kernel"] = kernel * functional.per_channel(factor, kernel)
        if (*conv, "bias") in params:
            params[*conv, "bias"] = params[*conv, "bias"] * factor
    for path, value in params.items():
        if value.ndim == 4:  # only kernels of convolutions have four axes
            params[path] = value.astype(network.dtype)
    return {
        "params": traverse_util.unflatten_dict(params),
        "batch_stats": traverse_util.unflatten_dict(stats),
    }


def _pairs(network: nn.Module, image_shape: tuple[int, ...]) -> list[tuple[_Path, _Path, float]]:
    """Paths of each convolution that a batch norm follows, and of that one, with its epsilon."""
    pairs = []

    def record(call, args, kwargs, context):
        module = context.module
        if isinstance(module, layers.BatchNorm) and module.follows:
            pairs.append(((*module.path[:-1], module.follows), module.path, module.epsilon))
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(network.init, jax.random.key(0), images)
    return pairs
