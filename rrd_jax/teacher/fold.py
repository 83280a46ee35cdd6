"""Folding of batch norms into convolutions, for frozen networks."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from rrd_jax import functional
from rrd_jax.networks import Network, layers, transformer
from rrd_jax.teacher import ensemble

_Path = tuple[str, ...]


class Folding(NamedTuple):
    """The layers of rrd_jax in a network that `fold` changes.

    Attributes:
      dtypes: the dtype of the computation of convolutions and linear layers, by path.
      norms: (path of a convolution, path of the batch norm after the convolution, epsilon).
      joined: blocks whose branches can be joined, by path.
    """

    dtypes: dict[_Path, Any]
    norms: list[tuple[_Path, _Path, float]]
    joined: dict[_Path, layers.Joined]

    def combines(self, variables: Mapping[str, Any]) -> frozenset[_Path]:
        """Returns the paths of the leaves that are combined with others, with their collection.

        All other leaves are unchanged or, for kernels, cast to the dtype of their computation, as
        the network itself would cast them.
        """
        flat = traverse_util.flatten_dict({n: variables[n] for n in ("params", "batch_stats")})
        modules = {*self.joined}
        for conv, norm, _ in self.norms:
            # The collections of a custom network can lack these statistics.
            modules |= {conv, norm} if ("batch_stats", *norm, "var") in flat else set()
        return frozenset(
            path for path in flat if any(path[1 : i + 1] in modules for i in range(1, len(path)))
        )

    def dtype(self, path: _Path) -> Any:
        """Returns the dtype that a leaf is cast to unless it is combined; None for its own.

        Args:
          path: path of the leaf, with its collection.
        """
        is_kernel = path[0] == "params" and path[-1] == "kernel"
        return self.dtypes.get(path[1:-1]) if is_kernel else None


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
      variables: weights of the network, or some of its modules.
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
    dtypes, norms, joined = plan(network, tuple(image_shape))
    for path, block in joined.items():
        block_params, block_stats = (
            {key[len(path) :]: tree.pop(key) for key in list(tree) if key[: len(path)] == path}
            for tree in (params, stats)
        )
        params |= {
            (*path, *key): value for key, value in block.join(block_params, block_stats).items()
        }
    for conv, norm, epsilon in norms:
        # The collections of a custom network can lack these statistics.
        if (*norm, "var") not in stats:
            continue
        factor = params.pop((*norm, "scale")) * jax.lax.rsqrt(stats.pop((*norm, "var")) + epsilon)
        params[*norm, "bias"] = params[*norm, "bias"] - stats.pop((*norm, "mean")) * factor
        kernel = params[*conv, "kernel"]
        params[*conv, "kernel"] = kernel * functional.per_channel(factor, kernel)
        if (*conv, "bias") in params:
            params[*conv, "bias"] = params[*conv, "bias"] * factor
    for path, dtype in dtypes.items():
        # Joined branches have been removed.
        if (*path, "kernel") in params:
            params[*path, "kernel"] = params[*path, "kernel"].astype(dtype)
    return {
        "params": traverse_util.unflatten_dict(params),
        "batch_stats": traverse_util.unflatten_dict(stats),
    }


def plan(network: Network, image_shape: tuple[int, ...]) -> Folding:
    """Finds the layers of rrd_jax in a network, by tracing."""
    folding = Folding({}, [], {})

    def record(call, args, kwargs, context):
        module = context.module
        if isinstance(module, layers.BatchNorm) and module.follows:
            convolution = (*module.path[:-1], module.follows)
            folding.norms.append((convolution, module.path, module.epsilon))
        if isinstance(module, layers.Conv | transformer.Linear):
            folding.dtypes[module.path] = module.dtype
        # A block that contains others joins them, too.
        is_inside = any(module.path[: len(path)] == path for path in folding.joined)
        if isinstance(module, layers.Joined) and not is_inside:
            folding.joined[module.path] = module
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(network.init, jax.random.key(0), images)
    return folding
