"""Checks of weights: shapes and types against a network, and values."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors
from rrd_jax.networks.contract import Network
from rrd_jax.networks.stored import Stored
from rrd_jax.networks.summary import leaf_name, named_shapes, summarize


def check_weights(
    location: str, variables: Any, network: Network, image_shape: tuple[int, ...]
) -> None:
    """Raises an InputError for weights that do not fit a network, or are not finite.

    Args:
      location: the location of the weights in messages.
      variables: the weights.
      network: a network for images of this shape.
      image_shape: (H, W, channels).
    """
    expected = summarize(network, image_shape).variables
    if not isinstance(variables, Mapping) or "params" not in variables:
        actual = f"keys {list(variables)}" if isinstance(variables, Mapping) else repr(variables)
        raise errors.InputError(
            f"the weights in {location} are not the variables of a network: they are"
            f" {actual[:200]}, but must be a dict with {' and '.join(expected)}"
        )
    variables = {name: variables.get(name, {}) for name in expected}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise errors.InputError(
                f"the weights in {location} contain {leaf_name(path)} of type"
                f" {type(leaf).__name__}, but must contain arrays only"
            )
    shapes, expected_shapes = named_shapes(variables), named_shapes(expected)
    differing = sorted(
        name for name in shapes | expected_shapes if shapes.get(name) != expected_shapes.get(name)
    )
    if differing:
        name, more = differing[0], len(differing) - 1
        raise errors.InputError(
            f"the weights in {location} do not fit the network: {name} is"
            f" {shapes.get(name, 'absent')} there and {expected_shapes.get(name, 'absent')} in the"
            " network"
            + (f", and {more} more differ" if more else "")
            + "; use the options and the code that the network was trained with"
        )
    floats = {leaf_name(path) for path, leaf in _float_leaves(expected)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if leaf_name(path) in floats and not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise errors.InputError(
                f"the weights in {location} contain {leaf_name(path)} of type {leaf.dtype}, but it"
                " must be an array of floats"
            )
    check_values(location, variables)


def check_values(location: str, variables: Any) -> None:
    """Raises an InputError for weights that are not finite, and for negative variances.

    Arrays in files are checked when they are read.

    Args:
      location: the location of the weights in messages.
      variables: a tree of arrays.
    """
    invalid = {}
    for path, leaf in _float_leaves(variables):
        if isinstance(leaf, Stored):
            continue
        is_variance = leaf_name(path[:1]) == "batch_stats" and leaf_name(path[-1:]) == "var"
        if text := invalid_values(leaf, is_variance=is_variance):
            invalid[leaf_name(path)] = text
    if invalid:
        name, text = next(iter(invalid.items()))
        others = f", and {len(invalid) - 1} more are invalid" if len(invalid) > 1 else ""
        raise errors.InputError(
            f"the weights in {location} are invalid: {name} {text}{others}; their training"
            " diverged, or the file is damaged; use other weights"
        )


def invalid_values(value: Any, *, is_variance: bool = False) -> str:
    """Describes values of an array that are not finite, as a predicate; "" if all are valid.

    Args:
      value: floats.
      is_variance: whether negative values are invalid too.
    """
    original = np.asarray(value)
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = original.astype(np.float32)
    if np.isfinite(numbers).all():
        lowest = numbers.min(initial=0)
        return (
            f"is a variance, but its minimum is {lowest:.4g}" if is_variance and lowest < 0 else ""
        )
    nan, infinite = int(np.isnan(numbers).sum()), int(np.isinf(numbers).sum())
    large = int(np.isfinite(original[np.isinf(numbers)]).sum())
    counts = {"NaN": nan, "infinite": infinite - large, "beyond the range of float32": large}
    listed = ", ".join(f"{count:,} {problem}" for problem, count in counts.items() if count)
    return f"is not finite: {listed} of {numbers.size:,} values"


def _float_leaves(tree: Any) -> list[tuple[Any, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [pair for pair in leaves if jnp.issubdtype(pair[1].dtype, jnp.floating)]
