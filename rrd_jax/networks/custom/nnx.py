"""Flax NNX modules as Networks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rrd_jax import errors, imports
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.custom.conversion import LeafNames, as_outputs, mode_arguments, mode_flags
from rrd_jax.networks.custom.custom_network import CustomNetwork


def from_nnx(
    module: nnx.Module | Callable[[nnx.Rngs], nnx.Module], *, name: str = ""
) -> CustomNetwork:
    """Converts an NNX module to a Network. The module is split once and merged inside the step.

    Variables of type `nnx.Param` are trained; random number states are derived from the step; sown
    values (`nnx.Intermediate`) are dropped; all other variables are carried in `batch_stats`.
    Training and evaluation mode are set with `module.train()` and `module.eval()` on a copy, and
    with an argument such as `train` or `deterministic`. If `__call__` has an argument `rngs`, the
    argument is set in training.

    Args:
      module: a module with weights that reads images [B, H, W, channels]; or a function rngs ->
        module with random weights. See `conversion.as_outputs` for the results that a module may
        return.
      name: the network's name in messages; "" for the name of its class.

    Examples:
      >>> network = from_nnx(lambda rngs: nnx.Linear(12, 10, rngs=rngs))
      >>> images = jnp.ones((2, 12))
      >>> network.apply(network.init(jax.random.key(0), images), images).logits.shape
      (2, 10)
    """
    return _NNX(module, name).network()


class _NNX:
    def __init__(self, module: Any, name: str):
        self._has_weights = isinstance(module, nnx.Module)
        if self._has_weights:
            # `_graph` changes the mode of the module; the clone keeps the user's object unchanged.
            abstract = nnx.clone(module)
            state = _split(abstract)
            self._create = lambda key: state
        else:
            # Under jit, each call creates a new module.
            self._create = lambda key: _split(module(nnx.Rngs(key)))
            abstract = nnx.eval_shape(lambda: module(nnx.Rngs(jax.random.key(0))))
        if not isinstance(abstract, nnx.Module):
            raise errors.InputError(
                f"network '{name}' returns an object of type {type(abstract).__name__} when it is"
                " called with rngs; return an nnx.Module"
            )
        self._abstract = abstract
        nnx.pop(abstract, nnx.Intermediate)
        call = type(abstract).__call__
        self._flags, self._takes_rngs = mode_flags(call), "rngs" in imports.parameters(call)
        self._graphs = {train: _graph(abstract, train) for train in (False, True)}
        params, self._rngs, rest = _split(abstract)
        self._params, self._rest = LeafNames(params), LeafNames(rest)
        self.name = name or type(abstract).__name__

    def network(self) -> CustomNetwork:
        dtype = getattr(self._abstract, "dtype", None)
        weights = self._init(None, None)[1] if self._has_weights else None
        return CustomNetwork(self.name, self._init, self._apply, dtype, weights=weights)

    def _init(self, key: jax.Array, images: jax.Array) -> tuple[None, dict[str, Any]]:
        del images
        params, _, rest = self._create(key)
        return None, {
            "params": self._params.to_dict(params),
            "batch_stats": self._rest.to_dict(rest),
        }

    def _apply(
        self, variables: dict[str, Any], images: jax.Array, train: bool, key: jax.Array | None
    ) -> tuple[Outputs, Any]:
        module = nnx.merge(
            self._graphs[train],
            self._params.to_tree(variables["params"]),
            self._fresh_rngs(jax.random.key(0) if key is None else key),
            self._rest.to_tree(variables["batch_stats"]),
            copy=True,
        )
        options: dict[str, Any] = mode_arguments(self._flags, train)
        if self._takes_rngs and train and key is not None:
            options["rngs"] = nnx.Rngs(key)
        outputs = as_outputs(module(images, **options))
        _, _, rest = _split(module)
        return outputs, self._rest.to_dict(rest)

    def _fresh_rngs(self, key: jax.Array) -> Any:
        """Returns random number states with counts of 0 and separate keys, derived from `key`."""
        leaves, treedef = jax.tree.flatten(self._rngs)
        fresh = []
        for i, leaf in enumerate(leaves):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                fresh.append(jnp.broadcast_to(jax.random.fold_in(key, i), leaf.shape))
            else:
                fresh.append(jnp.zeros(leaf.shape, leaf.dtype))
        return treedef.unflatten(fresh)


def _split(module: nnx.Module) -> tuple[Any, Any, Any]:
    nnx.pop(module, nnx.Intermediate)
    _, params, rngs, rest = nnx.split(module, nnx.Param, nnx.RngState, ...)
    return params, rngs, rest


def _graph(module: nnx.Module, train: bool) -> Any:
    """Returns the static part of a module in training or evaluation mode."""
    if train:
        module.train()
    else:
        module.eval()
    return nnx.split(module, nnx.Param, nnx.RngState, ...)[0]
