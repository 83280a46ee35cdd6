"""Equinox modules as Networks."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from rrd_jax import errors, imports
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.custom.conversion import Names, as_outputs, flags, parsed, takes, values
from rrd_jax.networks.custom.custom_network import CustomNetwork


def from_equinox(
    model: Any,
    *,
    batched: bool | None = None,
    channels_first: bool | None = None,
    name: str = "",
) -> CustomNetwork:
    """An Equinox module as a Network.

    Its inexact arrays are trained; its other arrays, and an `eqx.nn.State`, are carried in
    `batch_stats`. It is called as `model(image)`, with `state` and `key` where its `__call__` has
    such arguments, and returns (what it computes, state) if it takes a state.
    `eqx.nn.inference_mode` says whether it is trained.

    Args:
      model: a module with its weights; a pair (module, state); or key -> either, with fresh ones.
        See `conversion.as_outputs` for what it may return, of one image unless it is batched.
      batched: whether it takes a batch. If not it is mapped over images, with the axis name that
        its batch norms ask for. None: as its attribute `batched` says, else False.
      channels_first: whether images, and the maps that it returns, are [channels, H, W] instead of
        [H, W, channels]. None: as its attribute `channels_first` says, else True.
      name: for messages; "" for its class's.

    Examples:
      >>> network = from_equinox(lambda key: eqx.nn.Linear(12, 10, key=key), channels_first=False)
      >>> images = jnp.ones((2, 12))
      >>> network.apply(network.init(jax.random.key(0), images), images).logits.shape
      (2, 10)
    """
    return _Equinox(model, batched, channels_first, name).network()


class _Equinox:
    def __init__(self, model: Any, batched: Any, channels_first: Any, name: str):
        self.name = name
        self._has_weights = isinstance(model, eqx.Module | tuple)
        self._make: Callable = (lambda key: model) if self._has_weights else model
        abstract, state = eqx.filter_eval_shape(lambda key: self._made(key), jax.random.key(0))
        if not isinstance(abstract, eqx.Module):
            raise errors.InputError(
                f"network '{name}' is given a key and makes an object of type"
                f" {type(abstract).__name__}; wanted is an eqx.Module, or a pair (module, state)"
            )
        trained, others, self._static = _parts(abstract)
        self._trained, self._rest = Names(trained), Names((others, state))
        self.name = name or type(abstract).__name__
        self.batched = getattr(abstract, "batched", False) if batched is None else batched
        if channels_first is None:
            channels_first = getattr(abstract, "channels_first", True)
        self.channels_first, self._dtype = channels_first, getattr(abstract, "dtype", None)
        call = type(abstract).__call__
        self._flags = flags(call)
        self._takes_key = takes(call, "key")
        # Arguments of any name take a state only where there is one.
        named = "state" in imports.parameters(call)
        self._takes_state = named or bool(takes(call, "state") and jax.tree.leaves(state))
        self._axis = _axis_name(abstract)

    def network(self) -> CustomNetwork:
        weights = self._init(None, None)[1] if self._has_weights else None
        return CustomNetwork(self.name, self._init, self._apply, self._dtype, weights=weights)

    def _made(self, key: jax.Array) -> tuple[Any, Any]:
        """(module, state); the state of a module without one is empty."""
        made = self._make(key)
        if isinstance(made, tuple):
            return made
        try:
            return eqx.nn.make_with_state(lambda: made)()
        except ValueError as error:  # its first state was taken out of it
            raise errors.InputError(
                f"network '{self.name}' comes without its state: give the pair (module, state)"
            ) from error

    def _init(self, key: jax.Array, images: jax.Array) -> tuple[None, dict[str, Any]]:
        del images
        model, state = self._made(key)
        trained, others, _ = _parts(model)
        return None, {
            "params": self._trained.to_dict(trained),
            "batch_stats": self._rest.to_dict((others, state)),
        }

    def _apply(
        self, variables: dict[str, Any], images: jax.Array, train: bool, key: jax.Array | None
    ) -> tuple[Outputs, Any]:
        others, state = self._rest.to_tree(variables["batch_stats"])
        trained = self._trained.to_tree(variables["params"])
        model = eqx.nn.inference_mode(eqx.combine(trained, others, self._static), not train)
        if self.channels_first:
            images = jnp.moveaxis(images, -1, 1)
        options = values(self._flags, train)
        key = key if train else None

        def call(images, key, state):
            more = dict(options)
            if self._takes_key:
                more["key"] = key
            if not self._takes_state:
                return self._outputs(model(images, **more), images.ndim), state
            returned, after = model(images, state=state, **more)
            return self._outputs(returned, images.ndim), after

        if self.batched:
            outputs, state = call(images, key, state)
        else:
            keys = None if key is None else jax.random.split(key, len(images))
            axes = (0, None if keys is None else 0, None)
            mapped = jax.vmap(call, axes, (0, None), axis_name=self._axis)
            outputs, state = mapped(images, keys, state)
        return as_outputs(outputs._asdict()), self._rest.to_dict((others, state))

    def _outputs(self, returned: Any, ndim: int) -> Outputs:
        """Outputs whose maps have their channels last; `ndim` is that of a map."""
        outputs = parsed(returned)
        if not self.channels_first:
            return outputs

        def last(leaf):
            return jnp.moveaxis(leaf, -3, -1) if getattr(leaf, "ndim", 0) == ndim else leaf

        return outputs._replace(
            embedding=last(outputs.embedding),
            maps=tuple(map(last, outputs.maps)),
            preactivations=tuple(map(last, outputs.preactivations)),
        )


def _parts(model: Any) -> tuple[Any, Any, Any]:
    """(what is trained, other arrays, all else)."""

    def is_trained(leaf):
        return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)

    trained, rest = eqx.partition(model, is_trained)
    return trained, *eqx.partition(rest, _is_array)


def _is_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _axis_name(model: Any) -> Any:
    """The axis over which the batch norms of a model take their statistics."""
    modules = jax.tree.leaves(model, is_leaf=lambda leaf: isinstance(leaf, eqx.nn.BatchNorm))
    for module in modules:
        if isinstance(module, eqx.nn.BatchNorm):
            return module.axis_name
    return "batch"
