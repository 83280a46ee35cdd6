"""The Network interface of a custom network."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.networks.contract import Outputs


class CustomNetwork:
    """A custom network, adapted to the Network interface.

    Attributes:
      name: the network's name in messages: an import path, or the name of its class.
      dtype: the type of its computation, if known; otherwise float32.
      weights: its variables, if it was created with weights; otherwise None.
    """

    def __init__(
        self,
        name: str,
        init: Callable[[jax.Array, jax.Array], tuple[Outputs | None, dict[str, Any]]],
        apply: Callable[[dict[str, Any], jax.Array, bool, Any], tuple[Outputs, Any]],
        dtype: Any = None,
        pack: Callable[[Any, jax.Array], dict[str, Any]] | None = None,
        weights: dict[str, Any] | None = None,
    ):
        """Wraps functions as a network.

        Args:
          name: see Attributes.
          init: (key, images) -> (Outputs, or None if `init` does not compute them; variables).
          apply: (variables, images, train, key) -> (Outputs, the new batch_stats).
          dtype: see Attributes.
          pack: (variables in the user's format, images) -> variables.
          weights: see Attributes.
        """
        self.name, self._init, self._apply, self._pack = name, init, apply, pack
        self.dtype, self.weights = dtype or jnp.float32, weights

    def __repr__(self) -> str:
        return f"CustomNetwork({self.name})"

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """Implements `Network.init`."""
        del train
        with errors.user_code("initializing", f"network '{self.name}'"):
            return _check_arrays(self._init(key, images)[1])

    def pack(self, variables: Any, images: jax.Array) -> dict[str, Any]:
        """Converts variables in the user's format to {"params", "batch_stats"}."""
        return self._pack(variables, images) if self._pack else variables

    def init_with_output(self, key: jax.Array, images: jax.Array) -> tuple[Outputs, dict[str, Any]]:
        """Implements `Network.init_with_output`."""
        with errors.user_code("initializing", f"network '{self.name}'"):
            outputs, variables = self._init(key, images)
            _check_arrays(variables)
        if outputs is None:
            outputs = self.apply(variables, images)
        return outputs, variables

    def apply(
        self,
        variables: dict[str, Any],
        images: jax.Array,
        *,
        train: bool = False,
        mutable: Any = False,
        rngs: jax.Array | None = None,
    ) -> Any:
        """Implements `Network.apply`."""
        with errors.user_code("applying", f"network '{self.name}'"):
            outputs, changed = self._apply(variables, images, train, rngs)
        return (outputs, {"batch_stats": changed}) if mutable else outputs


def _check_arrays(variables: dict[str, Any]) -> dict[str, Any]:
    """Returns the variables; raises an InputError for a leaf that is not an array."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if not hasattr(leaf, "shape"):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise errors.InputError(
                f"its variable {name} is of type {type(leaf).__name__}, but must be an array"
            )
    return variables
