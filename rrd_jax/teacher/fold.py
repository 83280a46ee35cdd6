"""Frozen networks whose batch norms are part of their convolutions."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from rrd_jax.networks import layers
from rrd_jax.teacher import ensemble


def fold(network: Any, variables: Any, image_shape: tuple[int, ...]) -> Any:
    """Variables with which a network evaluates as before, in fewer operations.

    A batch norm behind a convolution scales by fixed numbers: the kernel takes them over, in
    float32, and only a shift is left. Kernels of convolutions are then cast to what they compute
    in. Batch norms elsewhere, and the classifier, stay as they are.

    Args:
      network: of `networks.create`, or an Ensemble.
      variables: its weights.
      image_shape: (H, W, channels) of any images that it takes.

    Returns:
      {"params", "batch_stats"} for `network.apply(..., train=False)`; they cannot be trained.
    """
    if isinstance(network, ensemble.Ensemble):
        members = ensemble.each(network, variables)
        return ensemble.gather([fold(*member, image_shape) for member in members])
    params, stats = (traverse_util.flatten_dict(variables[n]) for n in ("params", "batch_stats"))
    for conv, norm, epsilon in _pairs(network, image_shape):
        factor = params.pop((*norm, "scale")) * jax.lax.rsqrt(stats.pop((*norm, "var")) + epsilon)
        shift = params[*norm, "bias"] - stats.pop((*norm, "mean")) * factor
        params |= {(*norm, "bias"): shift, (*conv, "kernel"): params[*conv, "kernel"] * factor}
        if (*conv, "bias") in params:
            params[*conv, "bias"] = params[*conv, "bias"] * factor
    for path, value in params.items():
        if value.ndim == 4:  # only kernels of convolutions are
            params[path] = value.astype(network.dtype)
    return {
        "params": traverse_util.unflatten_dict(params),
        "batch_stats": traverse_util.unflatten_dict(stats),
    }


def _pairs(network: nn.Module, image_shape: tuple[int, ...]) -> list[tuple[Any, Any, float]]:
    """The path of each convolution that a batch norm follows, that one's path and its epsilon."""
    found = []

    def look(call, args, kwargs, context):
        module = context.module
        if isinstance(module, layers.BatchNorm) and module.follows:
            found.append(((*module.path[:-1], module.follows), module.path, module.epsilon))
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with nn.intercept_methods(look):
        jax.eval_shape(network.init, jax.random.key(0), images)
    return found
