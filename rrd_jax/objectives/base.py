"""The interface of objectives: pairs of pure functions, as in Optax, and catalog entries."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax.objectives.batch import Batch


class ObjectiveState(NamedTuple):
    """The state of an objective, next to the student's.

    Attributes:
      params: parameters that are trained together with the student (adapters, projections).
      frozen: constants that are checkpointed but hidden from the optimizer; a Stage may train them
        before distillation.
      memory: arrays that the objective updates at every step (queues, banks).
    """

    params: Any = ()
    frozen: Any = ()
    memory: Any = ()


# (state, student, teacher, batch) -> (loss [B] or [], new memory).
Loss = Callable[[ObjectiveState, Any, Any, Batch], tuple[jax.Array, Any]]


class Stage(NamedTuple):
    """A training phase before distillation.

    The run's optimizer minimizes the mean of `loss` alone, without a weight and without weight
    decay. It trains the objective's `frozen` state and, if `student` is True, the student's
    parameters except its classifier. The student's batch statistics are updated whenever its
    parameters are. Optimizer state and learning rate schedule are reset after the stage.

    Attributes:
      loss: a function like Objective.loss; the memory that it returns becomes the objective's.
      student: True if the student is trained too.
      epochs: length of the stage; the run's own epochs follow it.
      learning_rate: constant learning rate; None for the run's initial rate after warm-up.
    """

    loss: Loss
    student: bool
    epochs: int = 30
    learning_rate: float | None = None


class Objective(NamedTuple):
    """A term of the total loss.

    Attributes:
      init: function (key, student, teacher) -> ObjectiveState. `student` and `teacher` are the
        networks' Outputs as shapes, except `teacher.head`, which holds arrays; `teacher` is None in
        a run without a teacher.
      loss: function (state, student, teacher, batch) -> (loss [B], new memory). `student` and
        `teacher` are Outputs; `teacher` is constant for gradients. A loss that is not a mean over
        images may be a scalar.
      needs_teacher: True if `loss` or `stage.loss` reads the teacher's outputs.
      stage: training phase before distillation, or None.
      predict: function (state, student) -> logits [B, C] that replace the logits of the student's
        own classifier in evaluation; None to keep the student's classifier.
      taps: function (student, teacher) -> pairs of maps [B, H, W, channels] that are compared; None
        if no maps are paired.
      needs_maps: True if `loss` reads the teacher's maps; disables the teacher cache, which has no
        maps.
      floor: function (state, teacher) -> [B], the value of `loss` for a student with the teacher's
        relations. If present, `loss` reads embeddings only, and accepts any images. None if the
        floor is unknown.
      head: function (state) -> (head, is_unit): the head, as `parts.projections.init_head`
        returns it, that maps the student's embedding to the vector that `loss` compares; is_unit
        is True if that vector is normalized to length 1. The state has no memory, unless
        `head_needs_memory` is True. None without such layers.
      patch_head: function like `head` for the student's patches.
      head_needs_memory: True if `head` or `patch_head` reads the memory.
      by_teacher: function like `loss` that also returns the loss [B] of each teacher by its number,
        (loss, new memory, losses); None unless several teachers are compared separately.
      needs_patches: True if `loss` reads the teacher's patches; the teacher cache then holds them.
      needs_second: True if `loss` reads `batch.second`, the outputs for a second view of each
        image; disables the teacher cache and the loss of held-out images.
      measure: function (state, teacher, labels) -> state with other values in `frozen`, which runs
        once, on the hosts, before the first step. `teacher` are the Outputs of training images
        without augmentation, as NumPy arrays: `embedding` [N, D], and if `needs_patches` some of
        the patches [M, 1, 1, D]; `labels` are [N], invalid in a run without labels. None if nothing
        is measured.
      measured: maximal number N of images that are measured, evenly spaced in the training split.
      needs_index: False if `loss` also accepts a batch whose `index` is None, as that of held-out
        images, although it reads the index of training images.
    """

    init: Callable[[jax.Array, Any, Any], ObjectiveState]
    loss: Loss
    needs_teacher: bool = True
    stage: Stage | None = None
    predict: Callable[[ObjectiveState, Any], jax.Array] | None = None
    taps: Callable[[Any, Any], list[tuple[Any, Any]]] | None = None
    needs_maps: bool = True
    floor: Callable[[ObjectiveState, Any], jax.Array] | None = None
    head: Callable[[ObjectiveState], tuple[Any, bool]] | None = None
    patch_head: Callable[[ObjectiveState], tuple[Any, bool]] | None = None
    head_needs_memory: bool = False
    by_teacher: Callable[..., tuple[jax.Array, Any, dict[int, jax.Array]]] | None = None
    needs_patches: bool = False
    needs_second: bool = False
    measure: Callable[[ObjectiveState, Any, Any], ObjectiveState] | None = None
    measured: int = 4_096
    needs_index: bool = True


def mean_losses(
    name: str, objective: Objective, state: ObjectiveState, student: Any, teacher: Any, batch: Batch
) -> tuple[dict[str, jax.Array], Any]:
    """Computes the batch means that a run reports of an objective.

    The arguments after `name` are the objective and the arguments of its loss.

    Returns:
      ({name: []}, new memory). With several teachers that are compared separately, the means also
      contain the loss of each teacher: "rrd[0]" is that of teacher 0 in objective rrd.
    """
    if objective.by_teacher is None:
        losses, memory = objective.loss(state, student, teacher, batch)
        return {name: jnp.mean(losses)}, memory
    losses, memory, parts = objective.by_teacher(state, student, teacher, batch)
    means = {f"{name}[{i}]": jnp.mean(part) for i, part in parts.items()}
    return {name: jnp.mean(losses)} | means, memory


class Record(NamedTuple):
    """The catalog entry of an objective.

    The catalog, the config fields and the tables of tests are generated from records.

    Attributes:
      factory: function (options) -> Objective. Its name is the objective's name; the defaults and
        annotations of its keyword arguments become the config fields.
      compares: the parts of student and teacher that are compared, in a few words.
      reference: the publication, such as "arXiv 2407.12073"; "-" if there is none.
      weight: published weight in the total loss for CIFAR-100.
      verified: False if no published CIFAR-100 recipe could be verified; the weight is then 1.
      warmup: number of epochs over which the weight grows linearly from 0; 0 for no warm-up.
      company: weights of the accompanying objectives, if they differ from ce with weight 1.
      alone: weights of the method of this name, if they differ from those above.
      filled_in: options that the trainer sets; they are not config fields.
      needs_classes: True if the objective compares logits or uses the teacher's classifier, so
        that teacher and student must have the same classes.
      rows: function (options) -> rows K of the published memory, for an objective whose option
        `queue_size` is "auto"; None for an objective without this option. The options include the
        number of training images as `examples`, if it is known.
      patch_rows: a function like `rows` for the option `patch_queue_size`; 0 rows without a memory
        of patches. None for an objective without this option.
      needs_labels: True if the loss reads labels, or if the student learns from labels alone once
        the objective's stage is over.
    """

    factory: Callable[..., Objective]
    compares: str
    reference: str
    weight: float = 1.0
    verified: bool = True
    warmup: int = 0
    company: Mapping[str, float] = {}
    alone: Mapping[str, float] = {}
    filled_in: tuple[str, ...] = ()
    needs_classes: bool = True
    needs_labels: bool = False
    rows: Callable[[Mapping[str, Any]], int] | None = None
    patch_rows: Callable[[Mapping[str, Any]], int] | None = None

    @property
    def name(self) -> str:
        """The objective's name."""
        return self.factory.__name__


def stateless(
    loss: Callable[[Any, Any, Batch], jax.Array],
    *,
    needs_teacher: bool = True,
    needs_maps: bool = False,
    needs_second: bool = False,
) -> Objective:
    """Returns an objective without state.

    Args:
      loss: function (student, teacher, batch) -> [B]; see Objective.
      needs_teacher: whether `loss` reads the teacher's outputs.
      needs_maps: whether `loss` reads the teacher's maps; if False, the teacher's embeddings can be
        cached.
      needs_second: whether `loss` reads the outputs for a second view of each image.
    """
    return Objective(
        init=lambda key, student, teacher: ObjectiveState(),
        loss=lambda state, student, teacher, batch: (loss(student, teacher, batch), state.memory),
        needs_teacher=needs_teacher,
        needs_maps=needs_maps,
        needs_second=needs_second,
    )
