"""Several networks as one, for a student with several teachers."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax.networks import Network, Outputs


class EnsembleOutputs(NamedTuple):
    """What an Ensemble returns.

    Attributes:
      logits: [B, C] float32, the members' weighted mean; () where one of them has none.
      members: each member's Outputs, logits replaced by the ensemble's, head removed.
      head: (), since an ensemble has no classifier.
    """

    logits: Any
    members: tuple[Outputs, ...]
    head: Any = ()


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Networks that look at the same images; used as a network is, but never trained.

    Attributes:
      members: networks of `networks.create`, with the same classes.
      weights: of the members' logits; they add up to 1.
    """

    members: tuple[Network, ...]
    weights: tuple[float, ...]

    @property
    def dtype(self) -> Any:
        """What the members compute in, the widest of them."""
        return jnp.result_type(*(member.dtype for member in self.members))

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """Fresh variables of all members, stacked."""
        return stack_variables([member.init(key, images, train=train) for member in self.members])

    def init_with_output(
        self, key: jax.Array, images: jax.Array
    ) -> tuple[EnsembleOutputs, dict[str, Any]]:
        """The outputs for these images with fresh variables, and the variables."""
        pairs = [member.init_with_output(key, images) for member in self.members]
        outputs, variables = zip(*pairs, strict=True)
        return self.join(outputs), stack_variables(variables)

    def apply(
        self, variables: dict[str, Any], images: jax.Array, *, train: bool = False
    ) -> EnsembleOutputs:
        """The members' outputs for images [B, H, W, channels], as the ensemble's.

        Args:
          variables: of all members, stacked.
          images: normalised.
          train: False; an ensemble is not trained.
        """
        return self.join(
            [
                member.apply(member_variables, images, train=train)
                for member, member_variables in members(self, variables)
            ]
        )

    def join(self, outputs: Sequence[Outputs]) -> EnsembleOutputs:
        """The members' outputs as the ensemble's."""
        weighted = zip(self.weights, outputs, strict=True)
        logits = ()
        if not any(isinstance(output.logits, tuple) for output in outputs):
            logits = sum(weight * output.logits for weight, output in weighted)
        return EnsembleOutputs(
            logits, tuple(output._replace(logits=logits, head=()) for output in outputs)
        )


def stack_variables(variables: Sequence[dict[str, Any]]) -> dict[str, tuple]:
    """The members' variables as an Ensemble's: {"params": (...), "batch_stats": (...)}."""
    return {name: tuple(member[name] for member in variables) for name in ("params", "batch_stats")}


def members(network: Network, variables: dict[str, Any]) -> list[tuple[Network, Any]]:
    """Each member of an Ensemble with its variables; of any other network, itself with its own."""
    if not isinstance(network, Ensemble):
        return [(network, variables)]
    pairs = zip(variables["params"], variables["batch_stats"], strict=True)
    return [
        (member, {"params": params, "batch_stats": stats})
        for member, (params, stats) in zip(network.members, pairs, strict=True)
    ]


def networks_of(network: Network) -> Sequence[Network]:
    """The members of an Ensemble; of any other network, itself."""
    return network.members if isinstance(network, Ensemble) else (network,)


def outputs_of(outputs: Sequence[Outputs], weights: Sequence[float]) -> Any:
    """What teachers with these Outputs, as shapes, are seen as: one, several as one, or None."""
    if len(outputs) < 2:
        return outputs[0] if outputs else None
    return jax.eval_shape(Ensemble((), tuple(weights)).join, tuple(outputs))


def join_outputs(network: Network, outputs: Sequence[Outputs]) -> Outputs | EnsembleOutputs:
    """What the network returns, from the outputs of its `members`."""
    return network.join(outputs) if isinstance(network, Ensemble) else outputs[0]
