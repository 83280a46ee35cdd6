"""A training batch, as the train step receives it."""

from typing import Any, NamedTuple

import jax


class SecondView(NamedTuple):
    """The networks' Outputs for a second view of each image.

    Attributes:
      student: the student's Outputs, of a separate forward pass.
      teacher: the teacher's Outputs, constant for gradients; None without a teacher.
    """

    student: Any
    teacher: Any


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
      second_image: a second view of each image, in the format of `image`; None unless an objective
        compares it.
      second: the outputs for `second_image`, as losses receive them; otherwise None.
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
    second_image: jax.Array | None = None
    second: SecondView | None = None
    rows: tuple[jax.Array, ...] | None = None
