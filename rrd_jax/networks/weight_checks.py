"""Checks of weights against the network that they are for, and of their values."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors
from rrd_jax.networks.contract import Network
from rrd_jax.networks.summary import leaf_name, named_shapes, summarize


def check_weights(
    where: str, variables: Any, network: Network, image_shape: tuple[int, ...]
) -> None:
    """Raises an InputError for weights that do not fit a network, or are not finite.

    Args:
      where: the weights come from, for messages.
      variables: the weights.
      network: for images of this shape.
      image_shape: (H, W, channels).
    """
    wanted = summarize(network, image_shape).variables
    if not isinstance(variables, Mapping) or "params" not in variables:
        actual = f"keys {list(variables)}" if isinstance(variables, Mapping) else repr(variables)
        raise errors.InputError(
            f"the weights in {where} are no variables of a network: they are {actual[:200]}, where"
            f" a dict with {' and '.join(wanted)} is wanted"
        )
    variables = {name: variables.get(name, {}) for name in wanted}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise errors.InputError(
                f"the weights in {where} hold {leaf_name(path)}, which is of type"
                f" {type(leaf).__name__}, but must be an array"
            )
    theirs, ours = named_shapes(variables), named_shapes(wanted)
    differing = sorted(name for name in theirs | ours if theirs.get(name) != ours.get(name))
    if differing:
        name, more = differing[0], len(differing) - 1
        raise errors.InputError(
            f"the weights in {where} do not fit the network: {name} is"
            f" {theirs.get(name, 'absent')} there and {ours.get(name, 'absent')} in the network"
            + (f", and {more} more differ" if more else "")
            + "; its options, or its code, are not those it was trained with"
        )
    floats = {leaf_name(path) for path, leaf in _float_leaves(wanted)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if leaf_name(path) in floats and not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise errors.InputError(
                f"the weights in {where} hold {leaf_name(path)} of type {leaf.dtype}, where floats"
                " are wanted"
            )
    check_values(where, variables)


def check_values(where: str, variables: Any) -> None:
    """Raises an InputError for weights that are not finite, and for negative variances.

    Args:
      where: the weights come from, for messages.
      variables: arrays, in a tree.
    """
    invalid = {}
    for path, leaf in _float_leaves(variables):
        is_variance = leaf_name(path[:1]) == "batch_stats" and leaf_name(path[-1:]) == "var"
        if text := invalid_values(leaf, is_variance=is_variance):
            invalid[leaf_name(path)] = text
    if invalid:
        name, text = next(iter(invalid.items()))
        others = f", and {len(invalid) - 1} more are like that" if len(invalid) > 1 else ""
        raise errors.InputError(
            f"the weights in {where} cannot be used: {name} {text}{others}; the run that they are"
            " of diverged, or they are damaged"
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
        return f"is a variance, but as low as {lowest:.4g}" if is_variance and lowest < 0 else ""
    nan, infinite = int(np.isnan(numbers).sum()), int(np.isinf(numbers).sum())
    large = int(np.isfinite(original[np.isinf(numbers)]).sum())
    counts = {"NaN": nan, "infinite": infinite - large, "beyond the range of float32": large}
    listed = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return f"is not finite: of {numbers.size:,} values {listed}"


def _float_leaves(tree: Any) -> list[tuple[Any, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [pair for pair in leaves if jnp.issubdtype(pair[1].dtype, jnp.floating)]
