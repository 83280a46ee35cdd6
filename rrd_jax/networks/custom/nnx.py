"""Flax NNX modules as Networks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rrd_jax import errors, imports
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.custom.conversion import Names, as_outputs, flags, values
from rrd_jax.networks.custom.custom_network import CustomNetwork


def from_nnx(
    module: nnx.Module | Callable[[nnx.Rngs], nnx.Module], *, name: str = ""
) -> CustomNetwork:
    """An NNX module as a Network: split once, and merged inside the step.

    What is of type `nnx.Param` is trained; states of random numbers follow from the step; what is
    sown (`nnx.Intermediate`) is dropped; all else is carried in `batch_stats`. `module.train()` and
    `module.eval()`, on a copy, and an argument such as `train` or `deterministic`, say whether it
    is trained. An argument `rngs` of its `__call__` is given in training.

    Args:
      module: of images [B, H, W, channels], with its weights; or rngs -> a module with fresh ones.
        See `conversion.as_outputs` for what it may return.
      name: for messages; "" for its class's.

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
            abstract = nnx.clone(module)  # `_graph` changes it
            given = _split(abstract)
            self._make = lambda key: given
        else:
            # Under jit each call makes a module of its own.
            self._make = lambda key: _split(module(nnx.Rngs(key)))
            abstract = nnx.eval_shape(lambda: module(nnx.Rngs(jax.random.key(0))))
        if not isinstance(abstract, nnx.Module):
            raise errors.InputError(
                f"network '{name}' is given rngs and makes an object of type"
                f" {type(abstract).__name__}; wanted is an nnx.Module"
            )
        self._abstract = abstract
        nnx.pop(abstract, nnx.Intermediate)
        call = type(abstract).__call__
        self._flags, self._takes_rngs = flags(call), "rngs" in imports.parameters(call)
        self._graphs = {train: _graph(abstract, train) for train in (False, True)}
        params, self._rngs, rest = _split(abstract)
        self._params, self._rest = Names(params), Names(rest)
        self.name = name or type(abstract).__name__

    def network(self) -> CustomNetwork:
        dtype = getattr(self._abstract, "dtype", None)
        weights = self._init(None, None)[1] if self._has_weights else None
        return CustomNetwork(self.name, self._init, self._apply, dtype, weights=weights)

    def _init(self, key: jax.Array, images: jax.Array) -> tuple[None, dict[str, Any]]:
        del images
        params, _, rest = self._make(key)
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
        options: dict[str, Any] = values(self._flags, train)
        if self._takes_rngs and train and key is not None:
            options["rngs"] = nnx.Rngs(key)
        outputs = as_outputs(module(images, **options))
        _, _, rest = _split(module)
        return outputs, self._rest.to_dict(rest)

    def _fresh_rngs(self, key: jax.Array) -> Any:
        """States of random numbers that have counted nothing yet; each has a key of its own."""
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
    """The static part of a module that is trained, or evaluated."""
    if train:
        module.train()
    else:
        module.eval()
    return nnx.split(module, nnx.Param, nnx.RngState, ...)[0]
