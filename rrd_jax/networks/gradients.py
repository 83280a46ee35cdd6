"""Outputs of a network through which its parameters can be trained."""

from collections.abc import Collection

import jax
import jax.numpy as jnp

from rrd_jax.cpu import convolutions
from rrd_jax.networks.contract import Network, Outputs
from rrd_jax.networks.jaxprs import reached
from rrd_jax.networks.summary import leaf_name, summarize


@convolutions.plain
def trained_outputs(
    network: Network, image_shape: tuple[int, ...], frozen: Collection[str] = ()
) -> Outputs:
    """Returns the network's Outputs with True for each array that has a gradient.

    The result follows from the traced backward pass, without computing arrays: an array has no
    gradient if it does not depend on the parameters, or only through `stop_gradient`.

    Args:
      network: a network of `networks.create`.
      image_shape: (H, W, channels).
      frozen: paths of the parameters that are not trained.
    """
    variables = summarize(network, image_shape).variables
    params = variables["params"]
    rest = {name: value for name, value in variables.items() if name != "params"}
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)

    def outputs_of(params, rest, images):
        key = jax.random.key(0)
        return network.apply(
            {"params": params, **rest}, images, train=True, mutable=["batch_stats"], rngs=key
        )[0]

    shapes = jax.eval_shape(outputs_of, params, rest, images)

    def gradients(cotangents, params, rest, images):
        _, backward = jax.vjp(lambda params: outputs_of(params, rest, images), params)
        return backward(cotangents)

    program = jax.make_jaxpr(gradients)(shapes, params, rest, images).jaxpr
    leaves, structure = jax.tree.flatten(shapes)
    others = len(program.invars) - len(leaves)
    results = reached(program, [1 << i for i in range(len(leaves))] + [0] * others)
    paths = [leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    union = 0
    for path, result in zip(paths, results, strict=True):
        union |= 0 if path in frozen else result
    return jax.tree.unflatten(structure, [bool(union >> i & 1) for i in range(len(leaves))])
