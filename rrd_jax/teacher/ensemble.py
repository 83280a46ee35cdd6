"""Several networks as one, for a student with several teachers."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from rrd_jax.networks.layers import Outputs


class Several(NamedTuple):
    """What an Ensemble returns.

    Attributes:
      logits: [B, C] float32, the members' weighted mean.
      each: the members' outputs, all with these logits, and without a classifier of their own.
      head: none.
    """

    logits: jax.Array
    each: tuple[Outputs, ...]
    head: Any = ()


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Networks that see the same images; used as one of them is, but never trained.

    Attributes:
      members: of `networks.create`, for the same classes.
      weights: of their logits; they add up to 1.
    """

    members: tuple[nn.Module, ...]
    weights: tuple[float, ...]

    def apply(self, variables: dict[str, Any], images: jax.Array, *, train: bool) -> Several:
        """Variables are those of the members: {"params": (...), "batch_stats": (...)}."""
        members = each(self, variables)
        return self.join([member.apply(own, images, train=train) for member, own in members])

    def join(self, each: Sequence[Outputs]) -> Several:
        """What the members return, as what the ensemble does."""
        logits = sum(w * one.logits for w, one in zip(self.weights, each, strict=True))
        return Several(logits, tuple(one._replace(logits=logits, head=()) for one in each))

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """Fresh variables of all members."""
        return gather([member.init(key, images, train=train) for member in self.members])

    def init_with_output(self, key: jax.Array, images: jax.Array) -> tuple[Several, dict[str, Any]]:
        """The same, with what they make of the images."""
        made = [member.init_with_output(key, images) for member in self.members]
        outputs, variables = zip(*made, strict=True)
        return self.join(outputs), gather(variables)


def gather(variables: Sequence[dict[str, Any]]) -> dict[str, tuple]:
    """The members' variables as an Ensemble's."""
    return {name: tuple(own[name] for own in variables) for name in ("params", "batch_stats")}


def each(network: Any, variables: Any) -> list[tuple[nn.Module, Any]]:
    """The members of an Ensemble with their variables, or a single network with its own."""
    if not isinstance(network, Ensemble):
        return [(network, variables)]
    parts = zip(variables["params"], variables["batch_stats"], strict=True)
    own = [{"params": params, "batch_stats": stats} for params, stats in parts]
    return list(zip(network.members, own, strict=True))


def joined(network: Any, outputs: Sequence[Outputs]) -> Any:
    """What the network returns, from what `each` of its parts does."""
    return network.join(outputs) if isinstance(network, Ensemble) else outputs[0]
