"""What a train step sees of a batch."""

from typing import NamedTuple

import jax


class Batch(NamedTuple):
    """Images of one step, and what is known of them.

    Attributes:
      image: [B, H, W, channels]; uint8 as stored, float32 once augmented.
      label: [B] int32; None where a student learns without labels.
      index: [B] int32, positions in the training split.
      view: [B] int32, which of its views each image shows; None before augmentation, unless the
        host draws it.
      other_label: [B] int32 of the image that each is mixed with; None without mixing, or labels.
      share: [B] float32 in [0, 1], of the first label; None without mixing.
      teacher_image: as `image`, where the teacher sees another view of it; None where it does not.
      rows: of each member of a teacher whose embeddings the host keeps, [B, width] as
        `teacher.step_outputs.cached_row` makes them; None where it does not.
    """

    image: jax.Array
    label: jax.Array | None
    index: jax.Array
    view: jax.Array | None = None
    other_label: jax.Array | None = None
    share: jax.Array | None = None
    teacher_image: jax.Array | None = None
    rows: tuple[jax.Array, ...] | None = None
