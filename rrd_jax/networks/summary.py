"""What is known of a network without running it."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax.cpu import convolutions
from rrd_jax.networks.contract import Network, Outputs


class Summary(NamedTuple):
    """Shapes and costs of a network.

    Attributes:
      outputs: Outputs of a batch of one image, as shapes.
      parameters: number of trained scalars.
      macs: multiply-adds of convolutions and matrix products for one image.
      classifier: where `outputs.head` is among the parameters, as keys from their root; () where
        the network reports no head, or one that is none of its parameters.
      variables: as `init` makes them, as shapes.
    """

    outputs: Outputs
    parameters: int
    macs: int
    classifier: tuple[str, ...]
    variables: dict[str, Any]


def count_parameters(params: Any) -> int:
    """Number of trained scalars; batch-norm statistics are not among them."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@functools.cache  # it traces the network, and many ask
@convolutions.plain
def summarize(network: Network, image_shape: tuple[int, ...]) -> Summary:
    """The summary of a network for images of [H, W, channels]."""
    if getattr(network, "space_to_depth", False):
        network = network.clone(space_to_depth=False)  # the same network, padded with zeros
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    traced, (outputs, variables) = jax.make_jaxpr(network.init_with_output, return_shape=True)(
        jax.random.key(0), images
    )
    program = traced
    if not isinstance(network, nn.Module):  # a user's may multiply matrices to make its weights
        program = jax.make_jaxpr(network.apply)(variables, images)
    return Summary(
        outputs,
        count_parameters(variables["params"]),
        _macs(program.jaxpr),
        _classifier(traced.jaxpr.outvars, outputs, variables),
        {"batch_stats": {}, **variables},
    )


def multiply_adds(function: Callable, *arguments: Any) -> int:
    """Multiply-adds of convolutions and matrix products of a function of arrays, or of shapes."""
    return _macs(jax.make_jaxpr(function)(*arguments).jaxpr)


def named_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf by its path, such as params/conv1/kernel."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {leaf_name(path): leaf.shape for path, leaf in leaves}


def leaf_name(path: Any) -> str:
    """The path of a leaf of a tree in words, such as params/conv1/kernel."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def describe_maps(maps: Sequence[Any]) -> str:
    """Channels and size of each map, such as "16@32 32@16"; "none" for no map."""
    sizes = (
        f"{tap.shape[3]}@{tap.shape[1]}" + f"x{tap.shape[2]}" * (tap.shape[1] != tap.shape[2])
        for tap in maps
    )
    return " ".join(sizes) or "none"


def head(network: Network, variables: dict[str, Any], image_shape: tuple[int, ...]) -> Any:
    """The classifier {"kernel": [D, C], "bias": [C]} of a network with these weights.

    Args:
      network: whose Outputs have a head.
      variables: its weights.
      image_shape: (H, W, channels).
    """
    if path := summarize(network, image_shape).classifier:
        return functools.reduce(lambda at, key: at[key], path, variables["params"])
    images = jnp.zeros((1, *image_shape), jnp.float32)
    return jax.jit(lambda given: network.apply(given, images, train=False).head)(variables)


def _classifier(values: list[Any], outputs: Outputs, variables: dict[str, Any]) -> tuple[str, ...]:
    """The path of the head: where the same traced values stand among the parameters."""
    leaves = jax.tree_util.tree_leaves_with_path((outputs, variables))
    places: dict[int, tuple[str, ...]] = {}
    heads = []
    for (path, _), value in zip(leaves, values, strict=True):
        keys = tuple(getattr(key, "key", getattr(key, "name", "")) for key in path[1:])
        if path[0].idx == 0 and keys[0] == "head":
            heads.append((keys[1:], value))
        elif path[0].idx == 1 and keys[0] == "params":
            places[id(value)] = keys[1:]
    found = [(name, places.get(id(value), ())) for name, value in heads]
    parents = {path[:-1] for _, path in found}
    named_alike = all(path[-1:] == name for name, path in found)
    return parents.pop() if len(parents) == 1 and named_alike else ()


def _macs(jaxpr: Any) -> int:
    """Multiply-adds of a program; of branches those of the most expensive one."""
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        size = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += size * math.prod(shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
            total += size * math.prod(kernel) // max(1, outputs)
        elif name == "cond":
            total += max(_macs(branch.jaxpr) for branch in params["branches"])
        else:
            inner = [part for value in params.values() for part in _programs(value)]
            total += sum(map(_macs, inner)) * (params["length"] if name == "scan" else 1)
    return total


def _programs(value: Any) -> list[Any]:
    """The programs in a parameter of an operation."""
    if isinstance(value, tuple | list):
        return [part for element in value for part in _programs(element)]
    value = getattr(value, "jaxpr", value)
    return [value] if hasattr(value, "eqns") else []
