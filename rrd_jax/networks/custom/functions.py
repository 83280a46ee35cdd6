"""A pair of functions as a Network."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from rrd_jax import errors
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.custom.conversion import as_outputs, flags, takes, values
from rrd_jax.networks.custom.custom_network import CustomNetwork


def from_functions(
    init: Callable[[jax.Array, jax.Array], Any], apply: Callable[..., Any], *, name: str = ""
) -> CustomNetwork:
    """Two functions as a Network.

    Args:
      init: (key, images [B, H, W, channels]) -> the parameters, any tree; or a dict with `params`,
        which are trained, and collections that are not, such as running statistics.
      apply: (what init returned, images) -> see `conversion.as_outputs`. Where it has an argument
        such as `train` or `deterministic` it is told whether it is trained, where it has `key` or
        `rng` or `rngs` it gets a key in training, and None in evaluation. Where init returned collections,
        training expects a pair (outputs, {collection: its new value}); evaluation ignores the new
        values.
      name: for messages; "" for apply's.

    Examples:
      >>> network = from_functions(
      ...     lambda key, images: jax.random.normal(key, (images[0].size, 10)),
      ...     lambda kernel, images: images.reshape(len(images), -1) @ kernel)
      >>> images = jax.numpy.ones((2, 4, 4, 1))
      >>> network.apply(network.init(jax.random.key(0), images), images).logits.shape
      (2, 10)
    """
    return _Functions(init, apply, name or getattr(apply, "__qualname__", "apply")).network()


class _Functions:
    def __init__(self, init: Callable, apply: Callable, name: str):
        self.init, self.apply, self.name = init, apply, name
        self._flags = flags(apply)
        self._key = next((k for k in ("key", "rng", "rngs") if takes(apply, k)), "")

    def network(self) -> CustomNetwork:
        return CustomNetwork(self.name, self._init, self._apply, pack=_pack)

    def _init(self, key: jax.Array, images: jax.Array) -> tuple[None, dict[str, Any]]:
        return None, _pack(self.init(key, images))

    def _apply(
        self, variables: dict[str, Any], images: jax.Array, train: bool, key: jax.Array | None
    ) -> tuple[Outputs, Any]:
        params, rest = variables["params"], variables["batch_stats"]
        bare = not rest and isinstance(params, Mapping) and set(params) == {"tree"}
        given = params["tree"] if bare else {"params": params, **rest}
        options: dict[str, Any] = values(self._flags, train)
        if self._key:
            options[self._key] = key if train else None
        returned = self.apply(given, images, **options)
        if _has_collections(returned, rest):
            return as_outputs(returned[0]), dict(returned[1]) if train else rest
        if train and rest:
            raise errors.InputError(
                f"network '{self.name}' keeps {', '.join(rest)} beside its parameters, so in"
                " training its apply must return (outputs, {collection: its new value})"
            )
        return as_outputs(returned), rest


def _has_collections(returned: Any, rest: Mapping[str, Any]) -> bool:
    """Whether new values of all collections are returned beside the outputs."""
    is_pair = bool(rest) and isinstance(returned, tuple) and len(returned) == 2
    return is_pair and isinstance(returned[1], Mapping) and set(returned[1]) == set(rest)


def _pack(made: Any, images: Any = None) -> dict[str, Any]:
    """What init returned as variables."""
    del images
    if not (isinstance(made, Mapping) and "params" in made):
        return {"params": {"tree": made}, "batch_stats": {}}
    rest = {name: value for name, value in made.items() if name != "params"}
    return {"params": made["params"], "batch_stats": rest}
