"""Folding of batch norms into convolutions, for frozen networks."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from rrd_jax import functional
from rrd_jax.networks import Network, layers, transformer
from rrd_jax.teacher import ensemble

_Path = tuple[str, ...]


def fold(
    network: Network, variables: dict[str, Any], image_shape: tuple[int, ...]
) -> dict[str, Any]:
    """Returns equivalent variables that need fewer operations.

    The scale of a batch norm after a convolution is multiplied into the kernel, in float32; the
    batch norm then only adds a shift. A block with several branches becomes one convolution.
    Kernels of convolutions, and of a transformer's linear layers, are then cast to the dtype of
    their computation. All other variables, including variables of custom layers, are unchanged.

    Args:
      network: a network of `networks.create`, or an Ensemble.
      variables: weights of the network.
      image_shape: (H, W, channels) of the network's images.

    Returns:
      {"params", "batch_stats"} for `network.apply(..., train=False)`; not trainable.
    """
    if isinstance(network, ensemble.Ensemble):
        members = ensemble.members(network, variables)
        return ensemble.stack_variables([fold(*member, image_shape) for member in members])
    params, stats = (
        traverse_util.flatten_dict(variables[name], keep_empty_nodes=True)
        for name in ("params", "batch_stats")
    )
    convolutions, pairs, joined = _layers(network, image_shape)
    for path, block in joined.items():
        block_params, block_stats = (
            {key[len(path) :]: tree.pop(key) for key in list(tree) if key[: len(path)] == path}
            for tree in (params, stats)
        )
        params |= {
            (*path, *key): value for key, value in block.join(block_params, block_stats).items()
        }
    for conv, norm, epsilon in pairs:
        # The collections of a custom network can lack these statistics.
        if (*norm, "var") not in stats:
            continue
        factor = params.pop((*norm, "scale")) * jax.lax.rsqrt(stats.pop((*norm, "var")) + epsilon)
        params[*norm, "bias"] = params[*norm, "bias"] - stats.pop((*norm, "mean")) * factor
        kernel = params[*conv, "kernel"]
        params[*conv, "kernel"] = kernel * functional.per_channel(factor, kernel)
        if (*conv, "bias") in params:
            params[*conv, "bias"] = params[*conv, "bias"] * factor
    for path, dtype in convolutions.items():
        # Joined branches have been removed.
        if (*path, "kernel") in params:
            params[*path, "kernel"] = params[*path, "kernel"].astype(dtype)
    return {
        "params": traverse_util.unflatten_dict(params),
        "batch_stats": traverse_util.unflatten_dict(stats),
    }


def _layers(
    network: Network, image_shape: tuple[int, ...]
) -> tuple[dict[_Path, Any], list[tuple[_Path, _Path, float]], dict[_Path, layers.Joined]]:
    """Finds the layers of rrd_jax in a network.

    Returns:
      {path: dtype} of convolutions and linear layers; [(path of a convolution, path of the batch
      norm after the convolution, epsilon)]; {path: block} of blocks whose branches can be joined.
    """
    convolutions, pairs, joined = {}, [], {}

    def record(call, args, kwargs, context):
        module = context.module
        if isinstance(module, layers.BatchNorm) and module.follows:
            pairs.append(((*module.path[:-1], module.follows), module.path, module.epsilon))
        if isinstance(module, layers.Conv | transformer.Linear):
            convolutions[module.path] = module.dtype
        if isinstance(module, layers.Joined):
            joined[module.path] = module
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(network.init, jax.random.key(0), images)
    return convolutions, pairs, joined
