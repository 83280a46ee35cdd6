"""Averages of parameters that schedule-free optimizers keep, and evaluate with.

A schedule-free optimizer (arXiv 2405.15682) computes gradients at y = b1 x + (1 - b1) z, and its
result is the average x. Its state holds z and b1; the train state holds y.
"""

from typing import Any

import jax

from rrd_jax import networks

# Fields of `optax.contrib.ScheduleFreeState` by which it is recognized, also in a checkpoint.
_NAMES = ("b1", "weight_sum", "max_lr")
# The fields that `schedule_free` reads.
AVERAGE_FIELDS = (*_NAMES, "z")


def schedule_free(opt_state: Any) -> dict[str, dict[str, Any]]:
    """Finds the states of schedule-free optimizers in an Optax state.

    Args:
      opt_state: an Optax state, or the tree of one in a checkpoint.

    Returns:
      {path of the state: {"b1": array, "z": {name of a parameter: z}}}; empty for other optimizers.
    """
    leaves = jax.tree_util.tree_leaves_with_path(opt_state)
    named = {networks.leaf_name(path): leaf for path, leaf in leaves}
    states = {}
    for name, b1 in named.items():
        parent, _, field = f"/{name}".rpartition("/")
        if field == "b1" and all(f"{parent}/{other}".lstrip("/") in named for other in _NAMES):
            prefix = f"{parent}/z/".lstrip("/")
            z = {n.removeprefix(prefix): leaf for n, leaf in named.items() if n.startswith(prefix)}
            states[parent] = {"b1": b1, "z": z}
    return states


def evaluation_params(opt_state: Any, params: Any) -> Any:
    """Returns the parameters that an optimizer evaluates with: averages if it is schedule-free.

    Args:
      opt_state: see `schedule_free`.
      params: {"student": ..., "objectives": ...}, or a part of it with the same paths.
    """
    for state in schedule_free(opt_state).values():
        is_on_device = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
        params = (jax.jit(_average) if is_on_device else _average)(params, **state)
    return params


def _average(params, b1, z):
    def average(path, y):
        name = networks.leaf_name(path)
        return ((y - (1 - b1) * z[name]) / b1).astype(y.dtype) if name in z else y

    return jax.tree_util.tree_map_with_path(average, params)
