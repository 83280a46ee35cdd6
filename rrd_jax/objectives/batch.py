"""A training batch, as the train step receives it."""

from typing import NamedTuple

import jax


class Batch(NamedTuple):
    """Images of one step with their labels and positions.

    Attributes:
      image: [B, H, W, channels], uint8 as stored, float32 once augmented.
      label: [B] int32, class ids; None in a run without labels.
      index: [B] int32, positions in the training split.
      view: [B] int32, view number of each image; None before augmentation, unless the host draws
        the views.
      other_label: [B] int32, label of the image that is mixed in; None without mixing or labels.
      share: [B] float32 in [0, 1], share of the first label; None without mixing.
      teacher_image: the teacher's view, in the format of `image`; None if teacher and student share
        a view.
      rows: cached outputs of each member of a teacher, [B, width] as
        `teacher.step_outputs.cached_row` returns them; None unless the host holds the cache.
    """

    image: jax.Array
    label: jax.Array | None
    index: jax.Array
    view: jax.Array | None = None
    other_label: jax.Array | None = None
    share: jax.Array | None = None
    teacher_image: jax.Array | None = None
    rows: tuple[jax.Array, ...] | None = None
