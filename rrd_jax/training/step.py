"""The train step, as pure functions of arrays that `jobs.program` compiles.

Named scopes label the parts of the step in profiles.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rrd_jax import networks
from rrd_jax.data.augment.mixing import Mix
from rrd_jax.data.augment.pipeline import Augment
from rrd_jax.objectives import ObjectiveState, mean_losses
from rrd_jax.objectives.batch import Batch, SecondView
from rrd_jax.training import metrics
from rrd_jax.training.recipe import Term
from rrd_jax.training.state import TrainState

Logged = dict[str, jax.Array]
# Folded into the key for mixing and dropout. Augmentation folds in epochs, which are smaller.
_MIX, _DROPOUT = 2**31 - 1, 2**31 - 2


@dataclasses.dataclass(frozen=True)
class Task:
    """The constants of a training run.

    Attributes:
      student: the network.
      terms: terms of the total loss by name; each is logged unweighted as `loss/<name>`, and the
        part of each of several teachers as `loss/<name>[i]`.
      optimizer: the transformation passed to `state.create`.
      augment: the augmentation of images. Views are a function of (state.key, epoch, example
        index).
      steps_per_epoch: number of steps in an epoch.
      teach: (the step's argument `teacher`, batch) -> the teacher's Outputs; see
        `teacher.step_outputs`. None for no teacher.
      mix: the mixing of images within a batch, after augmentation; its randomness is a function of
        (state.key, step). None for no mixing.
      accumulate: number n of microbatches that a batch is split into, for one update with their
        mean gradient. Microbatch i contains the examples i, i + n, i + 2n, ..., so that each device
        splits its own examples. Each microbatch is normalized by its own statistics, which enter
        the running statistics, and is compared with the memories that the previous microbatches
        were pushed to. All microbatches use the same parameters.
      unroll: whether the loop over microbatches is unrolled.
      ema: decay of the average of the student's variables, in [0, 1); used if the state has an
        average. The decay is at most (1 + step) / (10 + step), so that the initial weights soon
        lose their influence.
      gather: gathers a parameter of an objective that may be sharded; the student gathers its own.
    """

    student: networks.Network
    terms: Mapping[str, Term]
    optimizer: optax.GradientTransformation
    augment: Augment
    steps_per_epoch: int
    teach: Callable[[Any, Batch], Any] | None = None
    mix: Mix | None = None
    accumulate: int = 1
    unroll: bool = True
    ema: float = 0.0
    gather: Callable[[jax.Array], jax.Array] = lambda parameter: parameter

    @property
    def has_second_view(self) -> bool:
        """True if an objective compares a second view of each image."""
        return any(term.objective.needs_second for term in self.terms.values())


class Gradients(NamedTuple):
    """The gradients of a batch or a microbatch, and the new values of other parts of the state.

    Attributes:
      params: gradients, with the structure of the state's params.
      batch_stats: the student's new running statistics.
      memory: the objectives' new memories.
      logged: float32 scalars `loss`, `loss/<name>`, with several teachers `loss/<name>[i]`, and
        with labels `top1` in [0, 1].
    """

    params: Any
    batch_stats: Any
    memory: Any
    logged: Logged


def train_step(
    task: Task, state: TrainState, teacher: Any, batch: Batch
) -> tuple[TrainState, Logged]:
    """Updates the student on the weighted sum of the objectives' batch means.

    Args:
      task: the constants of the run.
      state: the state before the step; may be donated.
      teacher: the first argument of `task.teach`; constant, never donated; None without a teacher.
      batch: images as stored, without augmentation.

    Returns:
      (next state, logged values; see Gradients).
    """
    batch = augmented(task, state, batch)
    if task.accumulate > 1:
        gradients = accumulated_gradients(task, state, teacher, batch)
    else:
        gradients = batch_gradients(task, state, teacher, batch)
    return updated(task, state, gradients), gradients.logged


@jax.named_scope("input")
def augmented(task: Task, state: TrainState, batch: Batch) -> Batch:
    """Returns the batch with a view of each image, mixed with other images if `task.mix` is set."""
    view, augment = batch.view, task.augment
    epoch = state.step // task.steps_per_epoch
    if augment.choose is not None:
        view = augment.choose(state.key, epoch, batch.index)
    images = augment.show(view, batch.index, batch.image)
    if task.has_second_view:
        second = augment.show_second(state.key, epoch, batch.index, batch.image)
        batch = batch._replace(second_image=second)
    if augment.show_teacher is not None:
        teacher_image = augment.show_teacher(view, batch.index, batch.image)
        batch = batch._replace(teacher_image=teacher_image)
    if task.mix is not None:
        key = jax.random.fold_in(jax.random.fold_in(state.key, _MIX), state.step)
        images, mixed = task.mix(key, images, batch.label)
        batch = batch._replace(**mixed)
    return batch._replace(image=images, view=view)


def batch_gradients(
    task: Task, state: TrainState, teacher: Any, batch: Batch, microbatch: jax.Array | int = 0
) -> Gradients:
    """Computes the gradients of an augmented batch, or of microbatch number `microbatch`."""
    outputs, second = None, None
    if task.teach is not None:
        with jax.named_scope("teacher"):
            outputs = jax.lax.stop_gradient(task.teach(teacher, batch))
            if batch.second_image is not None:
                second_batch = batch._replace(image=batch.second_image, teacher_image=None)
                second = jax.lax.stop_gradient(task.teach(teacher, second_batch))
    if batch.second_image is not None:
        batch = batch._replace(second=SecondView(None, second))
    key = state.key
    for number in (_DROPOUT, state.step, microbatch):
        key = jax.random.fold_in(key, number)
    loss = jax.grad(total_loss, argnums=1, has_aux=True)
    params, (logged, batch_stats, memory) = loss(task, state.params, state, outputs, batch, key)
    return Gradients(params, batch_stats, memory, logged)


def total_loss(
    task: Task,
    params: Any,
    state: TrainState,
    teacher_outputs: Any,
    batch: Batch,
    key: jax.Array | None = None,
) -> tuple[jax.Array, tuple[Logged, Any, Any]]:
    """Computes the weighted sum of the objectives' batch means.

    Args:
      task: the constants of the run.
      params: the parameters at which the loss is evaluated; the state's params are unused.
      state: provides statistics, memories, constants and the step count.
      teacher_outputs: the teacher's Outputs, constant for gradients; None without a teacher.
      batch: the augmented batch; its `second` has the teacher's outputs only.
      key: PRNG key for randomness in the student, such as dropout.

    Returns:
      (loss [], (logged values, the student's new statistics, the objectives' new memories)).
    """
    variables = {"params": params["student"], "batch_stats": state.batch_stats}
    with jax.named_scope("student"):
        outputs, changed = task.student.apply(
            variables, batch.image, train=True, mutable=["batch_stats"], rngs=key
        )
    if batch.second is not None:
        # Each view is normalized by its own statistics.
        with jax.named_scope("student_second"):
            second, changed = task.student.apply(
                variables | changed,
                batch.second_image,
                train=True,
                mutable=["batch_stats"],
                rngs=None if key is None else jax.random.fold_in(key, 1),
            )
        batch = batch._replace(second=batch.second._replace(student=second))
    means, memories, logits = {}, {}, outputs.logits
    heads = jax.tree.map(task.gather, params["objectives"])
    for name, term in task.terms.items():
        carried = ObjectiveState(heads[name], state.frozen[name], state.memory[name])
        with jax.named_scope(f"objective_{name}"):
            reported, memories[name] = mean_losses(
                name, term.objective, carried, outputs, teacher_outputs, batch
            )
            means |= reported
        if term.objective.predict:
            logits = term.objective.predict(carried, outputs)
    total = sum(_weight(task, name, state.step) * means[name] for name in task.terms)
    logged = {f"loss/{name}": mean for name, mean in means.items()}
    logged["loss"] = total
    if batch.label is not None:
        logged["top1"] = metrics.top1(logits, batch.label)
    return total, (logged, changed["batch_stats"], memories)


def _weight(task: Task, name: str, step: jax.Array) -> jax.Array | float:
    """Returns the weight of a term: weight * e / warmup in epoch e (from 1) of its warm-up."""
    term = task.terms[name]
    if not term.warmup:
        return term.weight
    epoch = step // task.steps_per_epoch + 1
    return term.weight * jnp.minimum(epoch / term.warmup, 1.0)


def accumulated_gradients(task: Task, state: TrainState, teacher: Any, batch: Batch) -> Gradients:
    """Computes the mean gradients of an augmented batch, one microbatch after the other."""

    def split(leaf):
        return leaf.reshape(-1, task.accumulate, *leaf.shape[1:]).swapaxes(0, 1)

    def accumulate(carry, numbered):
        if task.unroll:
            # The barrier keeps XLA from evaluating all microbatches at once, which would hold all
            # of their activations in memory.
            carry, numbered = jax.lax.optimization_barrier((carry, numbered))
        (summed, batch_stats, memory), (number, microbatch) = carry, numbered
        current = state.replace(batch_stats=batch_stats, memory=memory)
        gradients = batch_gradients(task, current, teacher, microbatch, number)
        summed = jax.tree.map(jnp.add, summed, gradients.params)
        return (summed, gradients.batch_stats, gradients.memory), gradients.logged

    start = (jax.tree.map(jnp.zeros_like, state.params), state.batch_stats, state.memory)
    unroll = task.accumulate if task.unroll else 1
    microbatches = (jnp.arange(task.accumulate), jax.tree.map(split, batch))
    (summed, batch_stats, memory), logged = jax.lax.scan(
        accumulate, start, microbatches, unroll=unroll
    )
    mean = jax.tree.map(lambda leaf: leaf / task.accumulate, summed)
    return Gradients(mean, batch_stats, memory, jax.tree.map(jnp.mean, logged))


@jax.named_scope("update")
def updated(task: Task, state: TrainState, gradients: Gradients) -> TrainState:
    """Returns the state after an update by the gradients."""
    optimizer = optax.with_extra_args_support(task.optimizer)
    updates, opt_state = optimizer.update(
        gradients.params, state.opt_state, state.params, value=gradients.logged["loss"]
    )
    params = optax.apply_updates(state.params, updates)
    return state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=gradients.batch_stats,
        ema=updated_average(task, state, params["student"], gradients.batch_stats),
        opt_state=opt_state,
        memory=gradients.memory,
    )


def updated_average(task: Task, state: TrainState, params: Any, batch_stats: Any) -> Any:
    """Returns the average of the student's variables, updated by new values; () for no average."""
    if not state.ema:
        return state.ema
    decay = jnp.minimum(task.ema, (1 + state.step) / (10 + state.step))
    newest = {"params": params, "batch_stats": batch_stats}

    def average(old, new):
        # Counters in batch_stats cannot be averaged.
        return decay * old + (1 - decay) * new if jnp.issubdtype(new.dtype, jnp.inexact) else new

    return jax.tree.map(average, state.ema, newest)


class Split(NamedTuple):
    """A training split in device memory, and the order of its examples in an epoch.

    Images are stored as rows: for [N, H, W, channels], XLA's TPU compiler would copy the whole
    split in each step, to a layout that it can gather from.

    Attributes:
      image: [N, H * W * channels] uint8.
      label: [N] int32; None for training without labels.
      order: [steps_per_epoch, B] int32, the example indices of each step in this epoch.
      view: [steps_per_epoch, B] int32, the view numbers of these examples if the host draws views;
        otherwise None.
      rows: [B, width] each, the rows of the Batch, for a call of one step; None if the devices
        store the rows.
    """

    image: jax.Array
    label: jax.Array | None
    order: jax.Array
    view: jax.Array | None = None
    rows: tuple[jax.Array, ...] | None = None


@jax.named_scope("input")
def resident_batch(
    split: Split, step: jax.Array, steps_per_epoch: int, image_shape: tuple[int, int, int]
) -> Batch:
    """Gathers the batch of a step from a split."""
    index = split.order[step % steps_per_epoch]
    view = None if split.view is None else split.view[step % steps_per_epoch]
    image, label = jax.tree.map(
        lambda array: array.at[index].get(mode="promise_in_bounds"), (split.image, split.label)
    )
    return Batch(image.reshape(-1, *image_shape), label, index, view, rows=split.rows)


def resident_step(
    task: Task,
    image_shape: tuple[int, int, int],
    state: TrainState,
    teacher: Any,
    split: Split,
) -> tuple[TrainState, Logged]:
    """Runs `train_step` on the batch of a split that belongs to the state's step."""
    batch = resident_batch(split, state.step, task.steps_per_epoch, image_shape)
    return train_step(task, state, teacher, batch)


def repeated(step: Callable, count: int) -> Callable:
    """Returns a function that calls `step` `count` times; logged values are stacked, [count]."""

    def steps(state, teacher, split):
        return jax.lax.scan(lambda state, _: step(state, teacher, split), state, length=count)

    return steps
