"""Several networks as one, for a student with several teachers."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from rrd_jax.models.layers import Outputs


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
      members: of `models.create`, for the same classes.
      weights: of their logits; they add up to 1.
    """

    members: tuple[nn.Module, ...]
    weights: tuple[float, ...]

    def apply(self, variables: dict[str, Any], images: jax.Array, *, train: bool) -> Several:
        """Variables are those of the members: {"params": (...), "batch_stats": (...)}."""
        parts = zip(self.members, variables["params"], variables["batch_stats"], strict=True)
        each = [
            member.apply({"params": params, "batch_stats": stats}, images, train=train)
            for member, params, stats in parts
        ]
        return self.join(each)

    def join(self, each: Sequence[Outputs]) -> Several:
        """What the members return, as what the ensemble does."""
        logits = sum(w * one.logits for w, one in zip(self.weights, each, strict=True))
        return Several(logits, tuple(one._replace(logits=logits, head=()) for one in each))

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """Fresh variables of all members."""
        own = [member.init(key, images, train=train) for member in self.members]
        return {name: tuple(v[name] for v in own) for name in ("params", "batch_stats")}

    def init_with_output(self, key: jax.Array, images: jax.Array) -> tuple[Several, dict[str, Any]]:
        """The same, with what they make of the images."""
        made = [member.init_with_output(key, images) for member in self.members]
        names = ("params", "batch_stats")
        variables = {name: tuple(own[name] for _, own in made) for name in names}
        return self.join([outputs for outputs, _ in made]), variables
