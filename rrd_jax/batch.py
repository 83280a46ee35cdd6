"""What a train step sees of a batch."""

from typing import NamedTuple

import jax


class Batch(NamedTuple):
    """Images of one step, and what is known of them.

    Attributes:
      image: [B, H, W, channels]; uint8 as stored, float32 once augmented.
      label: [B] int32; None where a student learns without labels.
      index: [B] int32, positions in the training split.
      view: [B] int32, which of its views each image shows; None before augmentation.
      other_label: [B] int32 of the image that each is mixed with; None without mixing, or labels.
      share: [B] float32 in [0, 1], of the first label; None without mixing.
    """

    image: jax.Array
    label: jax.Array | None
    index: jax.Array
    view: jax.Array | None = None
    other_label: jax.Array | None = None
    share: jax.Array | None = None
