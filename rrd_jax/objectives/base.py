"""What an objective is: a pair of pure functions, in the idiom of Optax, and a record of it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from rrd_jax.objectives.batch import Batch


class ObjectiveState(NamedTuple):
    """What an objective carries beside the student.

    Attributes:
      params: trained together with the student (adapters, projections).
      frozen: constants that must outlive a restart, never seen by the optimizer; a Stage trains
        them before.
      memory: what the objective itself rewrites at every step (queues, banks).
    """

    params: Any = ()
    frozen: Any = ()
    memory: Any = ()


# (state, student, teacher, batch) -> (loss [B] or [], new memory).
Loss = Callable[[ObjectiveState, Any, Any, Batch], tuple[jax.Array, Any]]


class Stage(NamedTuple):
    """Training phase before distillation.

    The phase descends the mean of `loss` alone, with no weight, by the run's optimizer. It changes
    the objective's `frozen` and, with `student`, the student's parameters except its classifier;
    nothing else, and no weight decays. The student's batch statistics follow its parameters.
    Optimizer state and learning rate start afresh after it.

    Attributes:
      loss: as Objective.loss; its memory becomes the objective's.
      student: whether the student is trained too.
      epochs: length of the phase; the run's first epoch comes after it.
      learning_rate: constant; None is the run's first one, after its warm-up.
    """

    loss: Loss
    student: bool
    epochs: int = 30
    learning_rate: float | None = None


class Objective(NamedTuple):
    """A term of the total loss.

    Attributes:
      init: (key, student, teacher) -> ObjectiveState. `student` and `teacher` are the networks'
        Outputs as shapes, except `teacher.head`, which holds arrays; `teacher` is None when there
        is none.
      loss: (state, student, teacher, batch) -> (loss [B], new memory). `student` and `teacher` are
        Outputs; `teacher` is constant for gradients. A loss that is no sum over images may be a
        scalar.
      needs_teacher: True if `loss`, or the stage's, reads the teacher's outputs.
      stage: training phase before distillation, or None.
      predict: (state, student) -> logits [B, C] that replace those of the student's own classifier
        in evaluation; None where the student's classifier stays.
      taps: (student, teacher) -> pairs of maps [B, H, W, channels] that are compared; None where
        no maps are paired.
      needs_maps: True if `loss` reads teacher maps; disables the cache of the teacher's outputs,
        which holds embeddings only.
      floor: (state, teacher) -> [B], what `loss` comes to for a student whose relations are the
        teacher's; its `loss` then reads nothing but embeddings, of any images. None where no such
        number is known.
      head: (state) -> (layers as `parts.projections.init_head` has them, which make of the
        student's embedding what `loss` compares; whether that has length 1). None where there are
        no such layers.
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


class Record(NamedTuple):
    """What is known of an objective beside its code.

    The catalogue, the config fields and the tables of tests are made from records.

    Attributes:
      factory: options -> Objective. Its name is the objective's; the defaults and annotations of
        its keyword arguments are those of the config's fields.
      compares: what of student and teacher it compares, in a few words.
      reference: where it was published, such as "arXiv 2407.12073"; "-" for nowhere.
      weight: published weight in the total loss for CIFAR-100.
      verified: False where no paper's CIFAR-100 recipe could be verified; the weight is then 1.
      warmup: epochs over which the weight grows from 0, linearly; 0 for none.
      company: weights of other objectives that come with it, where that is not ce with 1.
      alone: weights of the method of this name, where they are not those above.
      filled_in: options that the trainer fills in, so that no config has them.
      needs_classes: whether it compares the teacher's logits, or uses its classifier, so that the
        teacher's classes must be the student's.
      needs_labels: whether it reads the images' labels; or leaves the student to them, after a
        stage of its own.
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

    @property
    def name(self) -> str:
        """The objective's name."""
        return self.factory.__name__


def stateless(
    loss: Callable[[Any, Any, Batch], jax.Array],
    *,
    needs_teacher: bool = True,
    needs_maps: bool = False,
) -> Objective:
    """An objective that carries nothing.

    Args:
      loss: (student, teacher, batch) -> [B]; see Objective.
      needs_teacher: whether it reads the teacher's outputs.
      needs_maps: whether it reads the teacher's maps; where it does not, the teacher's embeddings
        can be cached.
    """
    return Objective(
        init=lambda key, student, teacher: ObjectiveState(),
        loss=lambda state, student, teacher, batch: (loss(student, teacher, batch), state.memory),
        needs_teacher=needs_teacher,
        needs_maps=needs_maps,
    )
