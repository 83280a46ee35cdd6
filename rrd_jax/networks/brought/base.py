"""A Network that calls something else."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import imports
from rrd_jax.networks.contract import Outputs


class Brought:
    """A Network made of a user's network.

    Attributes:
      name: as the user calls it: an import path, or the name of its class.
      dtype: what it computes in, as far as is known.
    """

    def __init__(
        self,
        name: str,
        init: Callable[[jax.Array, jax.Array], tuple[Outputs | None, dict[str, Any]]],
        apply: Callable[[dict[str, Any], jax.Array, bool, Any], tuple[Outputs, Any]],
        dtype: Any = None,
    ):
        """Args: see Attributes, and

        init: (key, images) -> (Outputs where they come with it, or None, variables).
        apply: (variables, images, train, key) -> (Outputs, what is to follow on batch_stats).
        """
        self.name, self._init, self._apply = name, init, apply
        self.dtype = dtype or jnp.float32

    def __repr__(self) -> str:
        return f"Brought({self.name})"

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """As Network has it."""
        del train
        with telling(self.name, "cannot be initialised"):
            return self._init(key, images)[1]

    def init_with_output(self, key: jax.Array, images: jax.Array) -> tuple[Outputs, dict[str, Any]]:
        """As Network has it."""
        with telling(self.name, "cannot be initialised"):
            outputs, variables = self._init(key, images)
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
        with telling(self.name, "cannot be applied"):
            outputs, changed = self._apply(variables, images, train, rngs)
        return (outputs, {"batch_stats": changed}) if mutable else outputs


class telling:
    """Turns what a user's code raises into an InputError that shows its own file and line."""

    def __init__(self, name: str, failed: str):
        self._what, self._failed = f"network '{name}'", failed

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception):
            raise imports.raised(self._what, self._failed, error) from error
