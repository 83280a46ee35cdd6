"""The interface of networks and of their outputs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax


class Outputs(NamedTuple):
    """The outputs of a network for a batch of images.

    Attributes:
      logits: [B, C] float32; () for a teacher without a classifier.
      embedding: [B, D] float32, the pooled features that the classifier reads; () if a custom
        network returns no embedding.
      maps: feature maps of the stem and of each stage [B, H, W, channels].
      preactivations: the maps before their last ReLU, or the maps themselves without a ReLU.
      head: the classifier {"kernel": [D, C], "bias": [C]}, with logits = embedding @ kernel + bias;
        () for no such classifier.
      patches: [B, h, w, D] of any float type, the features of each position: the patch tokens of a
        transformer after its final norm, without class, distillation and register tokens; for a
        convolutional network the map that its pooling reads. None if a custom network returns no
        patches, and for outputs that are computed from a stored embedding.
    """

    logits: jax.Array
    embedding: jax.Array
    maps: tuple[jax.Array, ...] = ()
    preactivations: tuple[jax.Array, ...] = ()
    head: Any = ()
    patches: jax.Array | None = None


class Network(Protocol):
    """A network without weights: pure functions of variables and images.

    The variables are {"params": trained parameters, "batch_stats": running statistics and other
    variables that are carried from step to step}.

    Attributes:
      dtype: type of the network's computation.
    """

    dtype: Any

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """Returns random variables for images of this shape.

        Args:
          key: a typed PRNG key.
          images: [B, H, W, channels].
          train: see `apply`.
        """

    def init_with_output(self, key: jax.Array, images: jax.Array) -> tuple[Outputs, dict[str, Any]]:
        """Returns the outputs of `apply` with random variables, and the variables."""

    def apply(
        self,
        variables: dict[str, Any],
        images: jax.Array,
        *,
        train: bool = False,
        mutable: Any = False,
        rngs: jax.Array | None = None,
    ) -> Any:
        """Computes the outputs for images.

        Args:
          variables: variables with the structure that `init` returns.
          images: [B, H, W, channels], normalized.
          train: whether batch norms use the statistics of the batch and update the running
            statistics; requires mutable=["batch_stats"].
          mutable: collections of variables that the network may change, or False.
          rngs: a typed PRNG key for randomness in training, such as dropout.

        Returns:
          Outputs; with `mutable` collections, (Outputs, {collection: its new variables}).
        """


def mean_logits(outputs: Sequence[Outputs], weights: Sequence[float]) -> Any:
    """Returns the weighted sum of the logits [B, C]; those of a network without logits if any."""
    missing = [output.logits for output in outputs if not jax.tree.leaves(output.logits)]
    if missing:
        return missing[0]
    pairs = zip(weights, outputs, strict=True)
    return sum(weight * output.logits for weight, output in pairs)


def network_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables of a network, without the state of an objective's classifier.

    Args:
      variables: {"params", "batch_stats"}, and "classifier" if an objective replaces the network's
        classifier.
    """
    return {name: value for name, value in variables.items() if name != "classifier"}
