"""A Network that calls something else."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.networks.contract import Outputs


class CustomNetwork:
    """A Network made of a user's network.

    Attributes:
      name: as the user calls it: an import path, or the name of its class.
      dtype: what it computes in, as far as is known.
      weights: its variables, where it came with weights; else None.
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
        """Args: see Attributes, and

        init: (key, images) -> (Outputs where they come with it, or None, variables).
        apply: (variables, images, train, key) -> (Outputs, what is to follow on batch_stats).
        pack: (variables as the user has them, images) -> variables.
        """
        self.name, self._init, self._apply, self._pack = name, init, apply, pack
        self.dtype, self.weights = dtype or jnp.float32, weights

    def __repr__(self) -> str:
        return f"CustomNetwork({self.name})"

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """As Network has it."""
        del train
        with errors.user_code("initialising", f"network '{self.name}'"):
            return _arrays(self._init(key, images)[1])

    def pack(self, variables: Any, images: jax.Array) -> dict[str, Any]:
        """The variables {"params", "batch_stats"} that a user's variables are."""
        return self._pack(variables, images) if self._pack else variables

    def init_with_output(self, key: jax.Array, images: jax.Array) -> tuple[Outputs, dict[str, Any]]:
        """As Network has it."""
        with errors.user_code("initialising", f"network '{self.name}'"):
            outputs, variables = self._init(key, images)
            _arrays(variables)
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
        """As Network has it."""
        with errors.user_code("applying", f"network '{self.name}'"):
            outputs, changed = self._apply(variables, images, train, rngs)
        return (outputs, {"batch_stats": changed}) if mutable else outputs


def _arrays(variables: dict[str, Any]) -> dict[str, Any]:
    """The same; raises an InputError for leaves that are no arrays."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if not hasattr(leaf, "shape"):
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            kind = type(leaf).__name__
            raise errors.InputError(f"its variables have {where} of type {kind}, which is no array")
    return variables
