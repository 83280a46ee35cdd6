"""Shapes and costs of a network, found by tracing."""

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
      outputs: Outputs for a batch of one image, as shapes.
      parameters: number of trained scalars.
      macs: multiply-adds of convolutions and matrix products for one image.
      classifier: the path of `outputs.head` in the parameters, as a tuple of keys; () if the
        network reports no head, or a head that is not one of its parameters.
      variables: the variables of `init`, as shapes.
    """

    outputs: Outputs
    parameters: int
    macs: int
    classifier: tuple[str, ...]
    variables: dict[str, Any]


def count_parameters(params: Any) -> int:
    """Counts trained scalars, without running statistics."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


# The cache avoids tracing the network again for each caller.
@functools.cache
@convolutions.plain
def summarize(network: Network, image_shape: tuple[int, ...]) -> Summary:
    """Returns the summary of a network for images [H, W, channels]."""
    if getattr(network, "space_to_depth", False):
        # With space_to_depth, multiply-adds would include those with padding zeros.
        network = network.clone(space_to_depth=False)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    traced, (outputs, variables) = jax.make_jaxpr(network.init_with_output, return_shape=True)(
        jax.random.key(0), images
    )
    program = traced
    # The `init` of a custom network may multiply matrices, which `macs` must not include.
    if not isinstance(network, nn.Module):
        program = jax.make_jaxpr(network.apply)(variables, images)
    return Summary(
        outputs,
        count_parameters(variables["params"]),
        _macs(program.jaxpr),
        _classifier(traced.jaxpr.outvars, outputs, variables),
        {"batch_stats": {}, **variables},
    )


def multiply_adds(function: Callable, *arguments: Any) -> int:
    """Counts the multiply-adds of convolutions and matrix products in a function of arrays."""
    return _macs(jax.make_jaxpr(function)(*arguments).jaxpr)


def named_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each leaf by path, such as params/conv1/kernel."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {leaf_name(path): leaf.shape for path, leaf in leaves}


def leaf_name(path: Any) -> str:
    """Returns the path of a leaf as a string, such as params/conv1/kernel."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def describe_maps(maps: Sequence[Any]) -> str:
    """Describes channels and size of each map, such as "16@32 32@16"; "none" without maps."""
    sizes = (
        f"{tap.shape[3]}@{tap.shape[1]}" + f"x{tap.shape[2]}" * (tap.shape[1] != tap.shape[2])
        for tap in maps
    )
    return " ".join(sizes) or "none"


def head(network: Network, variables: dict[str, Any], image_shape: tuple[int, ...]) -> Any:
    """Returns the classifier {"kernel": [D, C], "bias": [C]} of a network with weights.

    Args:
      network: a network whose Outputs have a head.
      variables: the network's weights.
      image_shape: (H, W, channels).
    """
    if path := summarize(network, image_shape).classifier:
        return functools.reduce(lambda node, key: node[key], path, variables["params"])
    images = jnp.zeros((1, *image_shape), jnp.float32)
    return jax.jit(lambda weights: network.apply(weights, images, train=False).head)(variables)


def _classifier(values: list[Any], outputs: Outputs, variables: dict[str, Any]) -> tuple[str, ...]:
    """Returns the path of the parameters that are traced to the head, or ()."""
    leaves = jax.tree_util.tree_leaves_with_path((outputs, variables))
    parameter_paths: dict[int, tuple[str, ...]] = {}
    heads = []
    for (path, _), value in zip(leaves, values, strict=True):
        keys = tuple(getattr(key, "key", getattr(key, "name", "")) for key in path[1:])
        if path[0].idx == 0 and keys[0] == "head":
            heads.append((keys[1:], value))
        elif path[0].idx == 1 and keys[0] == "params":
            parameter_paths[id(value)] = keys[1:]
    pairs = [(name, parameter_paths.get(id(value), ())) for name, value in heads]
    parents = {path[:-1] for _, path in pairs}
    same_names = all(path[-1:] == name for name, path in pairs)
    return parents.pop() if len(parents) == 1 and same_names else ()


def _macs(jaxpr: Any) -> int:
    """Counts the multiply-adds of a program; of branches, only the most expensive one counts."""
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
    """Returns the programs in a parameter of an operation."""
    if isinstance(value, tuple | list):
        return [part for element in value for part in _programs(element)]
    value = getattr(value, "jaxpr", value)
    return [value] if hasattr(value, "eqns") else []
