"""Ensembles: several teachers that are used as one network."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax import networks
from rrd_jax.networks import Network, Outputs


class EnsembleOutputs(NamedTuple):
    """The outputs of an Ensemble.

    Attributes:
      logits: [B, C] float32, the members' weighted mean; () if a member has none.
      members: each member's Outputs, without head.
      head: (), since an ensemble has no classifier.
    """

    logits: Any
    members: tuple[Outputs, ...]
    head: Any = ()


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Several networks with the interface of one; not trainable.

    Attributes:
      members: networks of `networks.create`, with the same classes.
      weights: weights of the members' logits, with sum 1.
    """

    members: tuple[Network, ...]
    weights: tuple[float, ...]

    @property
    def dtype(self) -> Any:
        """The widest dtype that a member computes in."""
        return jnp.result_type(*(member.dtype for member in self.members))

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """Initializes the variables of all members."""
        return stack_variables([member.init(key, images, train=train) for member in self.members])

    def init_with_output(
        self, key: jax.Array, images: jax.Array
    ) -> tuple[EnsembleOutputs, dict[str, Any]]:
        """Initializes the variables, and returns (outputs for the images, variables)."""
        pairs = [member.init_with_output(key, images) for member in self.members]
        outputs, variables = zip(*pairs, strict=True)
        return self.join(outputs), stack_variables(variables)

    def apply(
        self, variables: dict[str, Any], images: jax.Array, *, train: bool = False
    ) -> EnsembleOutputs:
        """Computes the outputs for images [B, H, W, channels].

        Args:
          variables: variables of all members, see `stack_variables`.
          images: normalized images.
          train: must be False; an ensemble is not trainable.
        """
        return self.join(
            [
                member.apply(member_variables, images, train=train)
                for member, member_variables in members(self, variables)
            ]
        )

    def gathered(self, gather: Callable, split: Callable) -> "Ensemble":
        """Returns the ensemble for sharded variables, see `networks.gathered`."""
        members = tuple(networks.gathered(member, gather, split) for member in self.members)
        return dataclasses.replace(self, members=members)

    def join(self, outputs: Sequence[Outputs]) -> EnsembleOutputs:
        """Combines the members' outputs."""
        logits = networks.mean_logits(outputs, self.weights)
        return EnsembleOutputs(logits, tuple(output._replace(head=()) for output in outputs))


def stack_variables(variables: Sequence[dict[str, Any]]) -> dict[str, tuple]:
    """Returns an Ensemble's variables: {"params": (...), "batch_stats": (...)}."""
    return {name: tuple(member[name] for member in variables) for name in ("params", "batch_stats")}


def members(network: Network, variables: dict[str, Any]) -> list[tuple[Network, Any]]:
    """Returns (network, variables) of each member; other networks are their only member."""
    if not isinstance(network, Ensemble):
        return [(network, variables)]
    pairs = zip(variables["params"], variables["batch_stats"], strict=True)
    return [
        (member, {"params": params, "batch_stats": stats})
        for member, (params, stats) in zip(network.members, pairs, strict=True)
    ]


def member_networks(network: Network) -> Sequence[Network]:
    """Returns the members of an Ensemble; other networks are their only member."""
    return network.members if isinstance(network, Ensemble) else (network,)


def combined_shapes(outputs: Sequence[Outputs], weights: Sequence[float]) -> Any:
    """Returns the shapes of the combined Outputs of several teachers; None without teachers."""
    if len(outputs) < 2:
        return outputs[0] if outputs else None
    return jax.eval_shape(Ensemble((), tuple(weights)).join, tuple(outputs))


def join_outputs(network: Network, outputs: Sequence[Outputs]) -> Outputs | EnsembleOutputs:
    """Combines the outputs of `members` into the outputs of the network."""
    return network.join(outputs) if isinstance(network, Ensemble) else outputs[0]
