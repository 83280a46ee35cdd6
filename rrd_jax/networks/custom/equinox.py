"""Equinox modules as Networks."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from rrd_jax import errors, imports
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.custom.conversion import (
    LeafNames,
    accepts,
    as_outputs,
    mode_arguments,
    mode_flags,
    parse,
)
from rrd_jax.networks.custom.custom_network import CustomNetwork


def from_equinox(
    model: Any,
    *,
    batched: bool | None = None,
    channels_first: bool | None = None,
    name: str = "",
) -> CustomNetwork:
    """Converts an Equinox module to a Network.

    Inexact arrays are trained; all other arrays, and an `eqx.nn.State`, are carried in
    `batch_stats`. The module is called as `model(image)`, with `state` and `key` if its `__call__`
    has such arguments, and returns (result, state) if it receives a state. Training and evaluation
    mode are set with `eqx.nn.inference_mode`.

    Args:
      model: a module with weights; a pair (module, state); or a function key -> either, with random
        weights. See `conversion.as_outputs` for the results that a module may return, for one image
        unless it is batched.
      batched: whether the module reads a batch. Otherwise it is mapped over images, with the axis
        name of its batch norms. None: the module's attribute `batched`, or False without one.
      channels_first: whether images, and the maps that the module returns, are [channels, H, W]
        instead of [H, W, channels]. None: the module's attribute `channels_first`, or True without
        one.
      name: the network's name in messages; "" for the name of its class.

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
        self._factory: Callable = (lambda key: model) if self._has_weights else model
        abstract, state = eqx.filter_eval_shape(lambda key: self._create(key), jax.random.key(0))
        if not isinstance(abstract, eqx.Module):
            raise errors.InputError(
                f"network '{name}' returns an object of type {type(abstract).__name__} when it is"
                " called with a key; return an eqx.Module, or a pair (module, state)"
            )
        trained, others, self._static = _parts(abstract)
        self._trained, self._rest = LeafNames(trained), LeafNames((others, state))
        self.name = name or type(abstract).__name__
        self.batched = getattr(abstract, "batched", False) if batched is None else batched
        if channels_first is None:
            channels_first = getattr(abstract, "channels_first", True)
        self.channels_first, self._dtype = channels_first, getattr(abstract, "dtype", None)
        call = type(abstract).__call__
        self._flags = mode_flags(call)
        self._takes_key = accepts(call, "key")
        # A `__call__` with **kwargs receives a state only if the module has one.
        has_argument = "state" in imports.parameters(call)
        self._takes_state = has_argument or bool(accepts(call, "state") and jax.tree.leaves(state))
        self._axis = _axis_name(abstract)

    def network(self) -> CustomNetwork:
        weights = self._init(None, None)[1] if self._has_weights else None
        return CustomNetwork(self.name, self._init, self._apply, self._dtype, weights=weights)

    def _create(self, key: jax.Array) -> tuple[Any, Any]:
        """Returns (module, state), with an empty state for a stateless module."""
        model = self._factory(key)
        if isinstance(model, tuple):
            return model
        try:
            return eqx.nn.make_with_state(lambda: model)()
        except ValueError as error:
            # Equinox raises if the initial state was already removed from the module.
            raise errors.InputError(
                f"network '{self.name}' lacks its state; pass the pair (module, state)"
            ) from error

    def _init(self, key: jax.Array, images: jax.Array) -> tuple[None, dict[str, Any]]:
        del images
        model, state = self._create(key)
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
        options = mode_arguments(self._flags, train)
        key = key if train else None

        def call(images, key, state):
            arguments = dict(options)
            if self._takes_key:
                arguments["key"] = key
            if not self._takes_state:
                return self._outputs(model(images, **arguments), images.ndim), state
            returned, new_state = model(images, state=state, **arguments)
            return self._outputs(returned, images.ndim), new_state

        if self.batched:
            outputs, state = call(images, key, state)
        else:
            keys = None if key is None else jax.random.split(key, len(images))
            axes = (0, None if keys is None else 0, None)
            mapped = jax.vmap(call, axes, (0, None), axis_name=self._axis)
            outputs, state = mapped(images, keys, state)
        return as_outputs(outputs._asdict()), self._rest.to_dict((others, state))

    def _outputs(self, returned: Any, ndim: int) -> Outputs:
        """Returns Outputs with the channels last in arrays of `ndim` axes, such as maps."""
        outputs = parse(returned)
        if not self.channels_first:
            return outputs

        def move_channels(leaf):
            return jnp.moveaxis(leaf, -3, -1) if getattr(leaf, "ndim", 0) == ndim else leaf

        return outputs._replace(
            embedding=move_channels(outputs.embedding),
            maps=tuple(map(move_channels, outputs.maps)),
            preactivations=tuple(map(move_channels, outputs.preactivations)),
            patches=move_channels(outputs.patches),
        )


def _parts(model: Any) -> tuple[Any, Any, Any]:
    """Returns (trained arrays, other arrays, static values)."""

    def is_trained(leaf):
        return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)

    trained, rest = eqx.partition(model, is_trained)
    return trained, *eqx.partition(rest, _is_array)


def _is_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _axis_name(model: Any) -> Any:
    """Returns the name of the axis over which a model's batch norms compute statistics."""
    modules = jax.tree.leaves(model, is_leaf=lambda leaf: isinstance(leaf, eqx.nn.BatchNorm))
    for module in modules:
        if isinstance(module, eqx.nn.BatchNorm):
            return module.axis_name
    return "batch"
