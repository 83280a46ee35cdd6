"""Networks whose weights are sharded, and gathered where they are used."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from rrd_jax.networks import layers, transformer
from rrd_jax.networks.contract import Network

# Gathers an array of weights, or constrains images to be split by example.
Place = Callable[[jax.Array], jax.Array]
_Path = tuple[str, ...]


class _Gathered(NamedTuple):
    """A Network with the functions of another Network, and an `apply` that gathers weights."""

    init: Callable
    init_with_output: Callable
    apply: Callable
    dtype: Any


def gathered(network: Network, gather: Place, split: Place) -> Network:
    """Returns a network with the same results for sharded variables.

    Convolutions and linear layers gather their weights in the type of their computation, each layer
    for itself, and again in the backward pass, so that the gathered weights of few layers are in
    memory at any time. All other variables, and all variables of custom networks, are gathered
    before the network is applied.

    Args:
      network: a network of `networks.create`, or a network of networks with a method `gathered`.
      gather: returns a weight whose sharding is that of replicated arrays.
      split: returns images that are split by example.
    """
    if hasattr(network, "gathered"):
        return network.gathered(gather, split)

    def apply(variables, images, **options):
        paths = _layer_paths(network, variables, images)
        variables = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if _module(path) in paths else gather(leaf), variables
        )
        with nn.intercept_methods(functools.partial(_gather_layer, paths, gather)):
            return network.apply(variables, split(images), **options)

    return _Gathered(network.init, network.init_with_output, apply, network.dtype)


def _layer_paths(network: Network, variables: Any, images: jax.Array) -> frozenset[_Path]:
    """Returns the paths of the convolutions and linear layers whose weights are in the params."""
    paths = set()

    def record(call, args, kwargs, context):
        if isinstance(context.module, layers.Conv | transformer.Linear):
            paths.add(context.module.path)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(functools.partial(network.apply, train=False), variables, images)
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    # The path of the whole network is not distinguished from the path of a copy of a layer.
    return frozenset(paths & {_module(path) for path, _ in leaves} - {()})


def _module(path: Any) -> _Path | None:
    """Returns the path of the module of a parameter; None for other variables."""
    keys = tuple(getattr(key, "key", None) for key in path)
    return keys[1:-1] if keys[0] == "params" else None


def _gather_layer(
    paths: frozenset[_Path], gather: Place, call: Callable, args: Any, kwargs: Any, context: Any
) -> Any:
    """Intercepts the call of a layer: its weights are gathered, and not kept for its gradient."""
    module = context.module
    # The copy of the layer has an empty path.
    if module.path not in paths or context.method_name != "__call__":
        return call(*args, **kwargs)
    layer = module.clone(parent=None, name=None)

    def apply(params, x):
        # A gather of bfloat16 transfers half of the bytes of float32.
        params = params | {"kernel": params["kernel"].astype(module.dtype)}
        return layer.apply({"params": jax.tree.map(gather, params)}, x)

    return _recomputing(apply)(module.variables["params"], *args)


def _recomputing(function: Callable) -> Callable:
    """Returns a function (params, x) -> y that keeps only its arguments for its gradient.

    `jax.checkpoint` would do the same, but its barrier includes x, which XLA could then no longer
    recompute from the results of earlier layers: in a ViT-L, a quarter more memory.
    """
    recomputing = jax.custom_vjp(function)

    def forward(params, x):
        return function(params, x), (params, x)

    def backward(arguments, cotangent):
        params, x = arguments
        # Without a dependence on the backward pass, XLA would keep the gathered weights.
        started = cotangent[(0,) * cotangent.ndim]
        params, _ = jax.lax.optimization_barrier((params, started))
        _, transpose = jax.vjp(function, params, x)
        return transpose(cotangent)

    recomputing.defvjp(forward, backward)
    return recomputing
