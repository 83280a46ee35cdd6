"""A pair of functions as a Network."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from rrd_jax import errors
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.custom.conversion import accepts, as_outputs, mode_arguments, mode_flags
from rrd_jax.networks.custom.custom_network import CustomNetwork


def from_functions(
    init: Callable[[jax.Array, jax.Array], Any], apply: Callable[..., Any], *, name: str = ""
) -> CustomNetwork:
    """Converts a pair of functions to a Network.

    If `apply` has an argument such as `train` or `deterministic`, the argument is set for training
    or evaluation. If `apply` has an argument `key`, `rng` or `rngs`, it receives a key in training
    and None in evaluation.

    Args:
      init: (key, images [B, H, W, channels]) -> the parameters, a tree of any structure; or a dict
        of `params`, which are trained, and collections that are not, such as running statistics.
      apply: (result of `init`, images) -> see `conversion.as_outputs`. If `init` returns
        collections, `apply` must return a pair (outputs, {collection: its new value}) in training;
        the new values are ignored in evaluation.
      name: the network's name in messages; "" for the name of `apply`.

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
        self._flags = mode_flags(apply)
        self._key = next((k for k in ("key", "rng", "rngs") if accepts(apply, k)), "")

    def network(self) -> CustomNetwork:
        return CustomNetwork(self.name, self._init, self._apply, pack=_pack)

    def _init(self, key: jax.Array, images: jax.Array) -> tuple[None, dict[str, Any]]:
        return None, _pack(self.init(key, images))

    def _apply(
        self, variables: dict[str, Any], images: jax.Array, train: bool, key: jax.Array | None
    ) -> tuple[Outputs, Any]:
        params, rest = variables["params"], variables["batch_stats"]
        is_bare = not rest and isinstance(params, Mapping) and set(params) == {"tree"}
        tree = params["tree"] if is_bare else {"params": params, **rest}
        options: dict[str, Any] = mode_arguments(self._flags, train)
        if self._key:
            options[self._key] = key if train else None
        returned = self.apply(tree, images, **options)
        if _has_collections(returned, rest):
            return as_outputs(returned[0]), dict(returned[1]) if train else rest
        if train and rest:
            raise errors.InputError(
                f"network '{self.name}' has the collections {', '.join(rest)} next to its"
                " parameters; return (outputs, {collection: its new value}) from apply in training"
            )
        return as_outputs(returned), rest


def _has_collections(returned: Any, rest: Mapping[str, Any]) -> bool:
    """Returns True if `returned` is a pair of outputs and new values of all collections."""
    is_pair = bool(rest) and isinstance(returned, tuple) and len(returned) == 2
    return is_pair and isinstance(returned[1], Mapping) and set(returned[1]) == set(rest)


def _pack(variables: Any, images: Any = None) -> dict[str, Any]:
    """Converts the result of `init` to {"params", "batch_stats"}."""
    del images
    if not (isinstance(variables, Mapping) and "params" in variables):
        return {"params": {"tree": variables}, "batch_stats": {}}
    rest = {name: value for name, value in variables.items() if name != "params"}
    return {"params": variables["params"], "batch_stats": rest}
