"""What a network is, and what it returns."""

from typing import Any, NamedTuple, Protocol

import jax


class Outputs(NamedTuple):
    """What a network computes from a batch of images.

    Attributes:
      logits: [B, C] float32; () of a teacher without a classifier.
      embedding: [B, D] float32, the pooled features that the classifier reads; () where a user's
        network returns none.
      maps: results of the stages [B, H, W, channels], the stem's first.
      preactivations: the same maps before their last ReLU; the map itself where there is none.
      head: the classifier {"kernel": [D, C], "bias": [C]}, with logits = embedding @ kernel + bias;
        () where there is none.
    """

    logits: jax.Array
    embedding: jax.Array
    maps: tuple[jax.Array, ...] = ()
    preactivations: tuple[jax.Array, ...] = ()
    head: Any = ()


class Network(Protocol):
    """A network without weights: pure functions.

    Its variables are {"params": what is trained, "batch_stats": running statistics, and whatever
    else it carries from step to step}.
    """

    dtype: Any  # what it computes in

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """Fresh variables for images like these.

        Args:
          key: a typed PRNG key.
          images: [B, H, W, channels].
          train: as `apply` has it.
        """

    def init_with_output(self, key: jax.Array, images: jax.Array) -> tuple[Outputs, dict[str, Any]]:
        """What `apply` computes from these images with fresh variables, and the variables."""

    def apply(
        self,
        variables: dict[str, Any],
        images: jax.Array,
        *,
        train: bool = False,
        mutable: Any = False,
        rngs: jax.Array | None = None,
    ) -> Any:
        """What the network computes from images.

        Args:
          variables: as `init` makes them.
          images: [B, H, W, channels], normalised.
          train: whether batch norms use the statistics of this batch and update the running ones;
            needs mutable=["batch_stats"].
          mutable: collections of variables that the network may change, or False.
          rngs: a typed PRNG key for what is random in training, such as dropout.

        Returns:
          Outputs; with `mutable` collections, (Outputs, {collection: its new variables}).
        """
