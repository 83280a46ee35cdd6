"""RRD over patches: relations within each image, and to a memory of patches of other images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax import errors, functional
from rrd_jax.objectives.base import Objective, ObjectiveState
from rrd_jax.objectives.parts import memory as memories
from rrd_jax.objectives.parts import patches, relations, within
from rrd_jax.objectives.parts.arithmetic import unit_rows

# (student [M, D], teacher [M, D], queue) -> (losses [M], the queue with the teacher's rows)
Compare = Callable[[jax.Array, jax.Array, memories.Queue], tuple[jax.Array, memories.Queue]]


class PatchMemory(NamedTuple):
    """The memory of an objective over patches.

    Attributes:
      queue: the latest teacher patches.
      draws: [] int32, number of draws so far.
    """

    queue: memories.Queue
    draws: jax.Array


class PatchOptions(NamedTuple):
    """The options of RRD over patches.

    Attributes:
      weight_within: factor of the loss within each image; 0 to omit the loss.
      weight_memory: factor of the loss with a memory of patches; 0 to omit loss and memory.
      diagonal: whether each patch is also related to itself in the loss within an image.
      count: number P of patches of each image that are compared with the memory and pushed to it;
        all patches if an image has fewer.
      queue_size: number of memory rows K.
      initial: see `memory.init_queue`.
    """

    weight_within: float
    weight_memory: float
    diagonal: bool
    count: int
    queue_size: int
    initial: str


def within_image_loss(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature_student: float,
    temperature_teacher: float,
    diagonal: bool = True,
) -> jax.Array:
    """Computes the cross-entropy of two networks' relations between the patches of an image.

        p_t(j | i) = softmax_j(u_i . u_j / tau_t),  p_s(j | i) = softmax_j(z_i . z_j / tau_s)
        loss       = - 1 / N sum_i sum_j p_t(j | i) log p_s(j | i)

    At equal temperatures, the loss exceeds the KL divergence by the entropy of p_t, which has no
    gradient. Under a mesh with Auto axes, each device processes its images if the number of devices
    divides B.

    Args:
      student: [B, N, D] patches z, usually of length 1.
      teacher: [B, N, E] patches u of the same images, constant for gradients.
      temperature_student: temperature tau_s of the student, > 0.
      temperature_teacher: temperature tau_t of the teacher, > 0.
      diagonal: whether a patch is also related to itself; if not, N must be at least 2.

    Returns:
      [B] losses in nats. The minimum is the entropy of p_t, reached if p_s equals p_t.

    Raises:
      InputError: a temperature is not above 0, or the shapes do not match.

    Examples:
      >>> import jax
      >>> student, teacher = jax.random.normal(jax.random.key(0), (2, 4, 9, 16))
      >>> temperatures = {"temperature_student": 0.07, "temperature_teacher": 0.07}
      >>> within_image_loss(student, teacher, **temperatures).shape
      (4,)
    """
    errors.check_positive(
        temperature_student=temperature_student, temperature_teacher=temperature_teacher
    )
    errors.check_arrays(student=student, teacher=teacher)
    least = 1 if diagonal else 2
    if not student.ndim == teacher.ndim == 3 or student.shape[:2] != teacher.shape[:2]:
        raise errors.InputError(
            f"student {student.shape} must be [B, N, D], and teacher {teacher.shape} [B, N, E]"
        )
    if student.shape[1] < least:
        raise errors.InputError(
            f"student {student.shape} has too few patches N, but must have at least {least}"
        )
    teacher = jax.lax.stop_gradient(functional.wide(teacher))
    return within.cross_entropy(
        functional.wide(student) / jnp.sqrt(temperature_student),
        teacher / jnp.sqrt(temperature_teacher),
        diagonal,
        relations.context_mesh(),
    )


def over_patches(
    options: PatchOptions,
    compare: Compare,
    head: str,
    head_width: int | None,
    temperature_student: float,
    temperature_teacher: float,
) -> Objective:
    """Builds the weighted sum of the losses within each image and with a memory of patches.

    The student's patches are projected to the dimension of the teacher's, which are compared
    without a projection, and brought to a common grid by `patches.pairs`.

    Args:
      options: the options; at least one weight must be above 0.
      compare: the comparison of patches with the memory.
      head: type of the student's head, see `projections.init_head`.
      head_width: hidden width of the student's head.
      temperature_student: temperature tau_s of the student within an image, > 0.
      temperature_teacher: temperature tau_t of the teacher within an image, > 0.
    """
    has_memory = options.weight_memory > 0

    def init(key, student, teacher):
        _check_grid(patches.grid(student, teacher), options)
        head_key, queue_key, draw_key = jax.random.split(key, 3)
        params = patches.init_head(head_key, student, teacher, head, head_width)
        if not has_memory:
            return ObjectiveState(params)
        dim = teacher.patches.shape[-1]
        queue = memories.init_queue(queue_key, options.queue_size, dim, initial=options.initial)
        key_data = jax.random.key_data(draw_key)
        return ObjectiveState(params, key_data, PatchMemory(queue, jnp.int32(0)))

    def loss(state, student, teacher, batch):
        pairs = patches.pairs(state.params, student, teacher)
        embedding, target = (unit_rows(part) for part in pairs)
        losses, memory = jnp.zeros(len(embedding)), state.memory
        if options.weight_within:
            losses += options.weight_within * within_image_loss(
                embedding,
                target,
                temperature_student=temperature_student,
                temperature_teacher=temperature_teacher,
                diagonal=options.diagonal,
            )
        if has_memory:
            embedding, target = _drawn(state, batch, options.count, embedding, target)
            dim = target.shape[-1]
            queue = state.memory.queue
            patch_losses, queue = compare(
                embedding.reshape(-1, dim), target.reshape(-1, dim), queue
            )
            losses += options.weight_memory * patch_losses.reshape(len(losses), -1).mean(axis=1)
            memory = PatchMemory(queue, state.memory.draws + 1)
        return losses, memory

    return Objective(
        init,
        loss,
        needs_maps=False,
        needs_patches=True,
        patch_head=lambda state: (state.params, True),
        needs_index=False,
    )


def _drawn(
    state: ObjectiveState, batch: Any, count: int, *arrays: jax.Array
) -> tuple[jax.Array, ...]:
    """Returns P patches of each image, the same of each array [B, N, D], as [B, P, D]."""
    size, total, _ = arrays[0].shape
    key = jax.random.wrap_key_data(state.frozen)
    # Held-out images have no index.
    index = jnp.arange(size) if batch.index is None else batch.index
    drawn = patches.draw(key, state.memory.draws, index, total, min(count, total))
    return tuple(jnp.take_along_axis(array, drawn[..., None], axis=1) for array in arrays)


def _check_grid(grid: patches.Grid, options: PatchOptions) -> None:
    """Raises an InputError for a grid without relations within an image."""
    if options.weight_within and grid.count < 2:
        raise errors.InputError(
            f"the patches of student and teacher are {grid.height} x {grid.width}, but relations"
            " within an image need at least 2 patches; use larger images or other networks, or set"
            " weight_within=0"
        )
