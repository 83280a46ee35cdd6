"""One train step as pure functions of arrays; `program` compiles them.

Named scopes say which part of the step an instruction belongs to; profilers show them.
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
from rrd_jax.objectives import ObjectiveState
from rrd_jax.objectives.batch import Batch
from rrd_jax.training import metrics
from rrd_jax.training.recipe import Term
from rrd_jax.training.state import TrainState

Logged = dict[str, jax.Array]
# Folded into the key for mixing and dropout; epochs, folded in for augmentation, never get there.
_MIX, _DROPOUT = 2**31 - 1, 2**31 - 2


@dataclasses.dataclass(frozen=True)
class Task:
    """What stays the same from step to step.

    Attributes:
      student: the network.
      terms: of the total loss, by name; each is logged unweighted as `loss/<name>`.
      optimizer: what `state.create` was given.
      augment: what is done to images. Views are a function of (state.key, epoch, example index).
      steps_per_epoch: turns the step into the epoch.
      teach: (what steps are given of the teacher, batch) -> its Outputs, by `teacher.step_outputs`;
        None for no teacher.
      mix: of images within the batch, after augmentation; its randomness is a function of
        (state.key, step). None for none.
      accumulate: parts n of a batch that are walked one after the other, for one update with
        their mean gradient. Part i holds the examples i, i + n, i + 2n, ... so that each device
        splits its own. A part is normalised by its own statistics, which enter the running ones,
        and is compared with, and pushed to, the memories that the part before it left; all parts
        see the same parameters.
      unroll: whether the parts are written out, or walked in a loop.
      ema: decay of the average of the student's variables, in [0, 1); used where the state has an
        average. Early on the decay is (1 + step) / (10 + step), so that the first weights are soon
        forgotten.
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


class Gradients(NamedTuple):
    """What a batch, or a part of one, asks of the parameters, and what it leaves behind.

    Attributes:
      params: gradients, as the state's params.
      batch_stats: the student's running statistics.
      memory: the objectives' memories.
      logged: float32 scalars `loss`, `loss/<name>`, and with labels `top1` in [0, 1].
    """

    params: Any
    batch_stats: Any
    memory: Any
    logged: Logged


def train_step(
    task: Task, state: TrainState, teacher: Any, batch: Batch
) -> tuple[TrainState, Logged]:
    """One update of the student on the weighted sum of the objectives' batch means.

    Args:
      task: what to do.
      state: before the step; may be donated.
      teacher: what `task.teach` reads; constant, never donated, None when there is no teacher.
      batch: images as stored, without a view.

    Returns:
      (next state, what is logged; see Gradients).
    """
    batch = augmented(task, state, batch)
    if task.accumulate > 1:
        gradients = accumulated_gradients(task, state, teacher, batch)
    else:
        gradients = batch_gradients(task, state, teacher, batch)
    return updated(task, state, gradients), gradients.logged


@jax.named_scope("input")
def augmented(task: Task, state: TrainState, batch: Batch) -> Batch:
    """The batch as the networks see it: a view of each image, mixed with another if asked for."""
    view, augment = batch.view, task.augment
    if augment.choose is not None:
        epoch = state.step // task.steps_per_epoch
        view = augment.choose(state.key, epoch, batch.index)
    images = augment.show(view, batch.index, batch.image)
    if augment.show_teacher is not None:
        seen = augment.show_teacher(view, batch.index, batch.image)
        batch = batch._replace(teacher_image=seen)
    if task.mix is not None:
        key = jax.random.fold_in(jax.random.fold_in(state.key, _MIX), state.step)
        images, mixed = task.mix(key, images, batch.label)
        batch = batch._replace(**mixed)
    return batch._replace(image=images, view=view)


def batch_gradients(
    task: Task, state: TrainState, teacher: Any, batch: Batch, part: jax.Array | int = 0
) -> Gradients:
    """The gradients of an augmented batch, or of one part of it."""
    outputs = None
    if task.teach is not None:
        with jax.named_scope("teacher"):
            outputs = jax.lax.stop_gradient(task.teach(teacher, batch))
    key = state.key
    for number in (_DROPOUT, state.step, part):
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
    """The weighted sum of the objectives' batch means.

    Args:
      task: what to do.
      params: at which the loss is taken, in place of the state's.
      state: whose statistics, memories, constants and step count.
      teacher_outputs: constant for gradients; None when there is no teacher.
      batch: augmented.
      key: of what is random in the student, such as dropout.

    Returns:
      (loss [], (what is logged, the student's statistics, the objectives' memories)).
    """
    variables = {"params": params["student"], "batch_stats": state.batch_stats}
    with jax.named_scope("student"):
        outputs, changed = task.student.apply(
            variables, batch.image, train=True, mutable=["batch_stats"], rngs=key
        )
    means, memories, logits = {}, {}, outputs.logits
    for name, term in task.terms.items():
        carried = ObjectiveState(params["objectives"][name], state.frozen[name], state.memory[name])
        with jax.named_scope(f"objective_{name}"):
            losses, memories[name] = term.objective.loss(carried, outputs, teacher_outputs, batch)
            means[name] = jnp.mean(losses)
        if term.objective.predict:
            logits = term.objective.predict(carried, outputs)
    total = sum(_weight(task, name, state.step) * mean for name, mean in means.items())
    logged = {f"loss/{name}": mean for name, mean in means.items()}
    logged["loss"] = total
    if batch.label is not None:
        logged["top1"] = metrics.top1(logits, batch.label)
    return total, (logged, changed["batch_stats"], memories)


def _weight(task: Task, name: str, step: jax.Array) -> jax.Array | float:
    """Of a term: in epoch e, counted from 1, of a warm-up it is weight e / warmup."""
    term = task.terms[name]
    if not term.warmup:
        return term.weight
    epoch = step // task.steps_per_epoch + 1
    return term.weight * jnp.minimum(epoch / term.warmup, 1.0)


def accumulated_gradients(task: Task, state: TrainState, teacher: Any, batch: Batch) -> Gradients:
    """The mean gradients of an augmented batch, part by part."""

    def split(leaf):
        return leaf.reshape(-1, task.accumulate, *leaf.shape[1:]).swapaxes(0, 1)

    def walk(carry, numbered):
        if task.unroll:
            # Else a compiler that knows all parts may compute them side by side, and keep them all.
            carry, numbered = jax.lax.optimization_barrier((carry, numbered))
        (summed, batch_stats, memory), (number, part) = carry, numbered
        current = state.replace(batch_stats=batch_stats, memory=memory)
        gradients = batch_gradients(task, current, teacher, part, number)
        summed = jax.tree.map(jnp.add, summed, gradients.params)
        return (summed, gradients.batch_stats, gradients.memory), gradients.logged

    start = (jax.tree.map(jnp.zeros_like, state.params), state.batch_stats, state.memory)
    unroll = task.accumulate if task.unroll else 1
    parts = (jnp.arange(task.accumulate), jax.tree.map(split, batch))
    (summed, batch_stats, memory), logged = jax.lax.scan(walk, start, parts, unroll=unroll)
    mean = jax.tree.map(lambda leaf: leaf / task.accumulate, summed)
    return Gradients(mean, batch_stats, memory, jax.tree.map(jnp.mean, logged))


@jax.named_scope("update")
def updated(task: Task, state: TrainState, gradients: Gradients) -> TrainState:
    """The state after an update by these gradients."""
    optimizer = optax.with_extra_args_support(task.optimizer)
    updates, opt_state = optimizer.update(
        gradients.params, state.opt_state, state.params, value=gradients.logged["loss"]
    )
    params = optax.apply_updates(state.params, updates)
    return state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=gradients.batch_stats,
        ema=averaged(task, state, params["student"], gradients.batch_stats),
        opt_state=opt_state,
        memory=gradients.memory,
    )


def averaged(task: Task, state: TrainState, params: Any, batch_stats: Any) -> Any:
    """The average of the student's variables with these taken in; () for none."""
    if not state.ema:
        return state.ema
    keep = jnp.minimum(task.ema, (1 + state.step) / (10 + state.step))
    newest = {"params": params, "batch_stats": batch_stats}

    def average(old, new):
        # A network may carry counters too.
        return keep * old + (1 - keep) * new if jnp.issubdtype(new.dtype, jnp.inexact) else new

    return jax.tree.map(average, state.ema, newest)


class Split(NamedTuple):
    """A training split that lies on the devices, and the order of an epoch.

    Images are rows: of [N, H, W, channels], XLA's TPU compiler would make a copy of the whole
    split in each step, in a layout to gather from.

    Attributes:
      image: [N, H * W * channels] uint8.
      label: [N] int32; None where a student learns without labels.
      order: [steps_per_epoch, B] int32, the examples that this epoch's steps see.
      view: [steps_per_epoch, B] int32 of these, where the host draws views; None where it does not.
      rows: [B, width] each, as Batch's, of a call of one step; None where the devices keep them.
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
    """The batch of a split that a step sees."""
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
    """`train_step` with the batch of a split that the state's step is to see."""
    batch = resident_batch(split, state.step, task.steps_per_epoch, image_shape)
    return train_step(task, state, teacher, batch)


def repeated(step: Callable, count: int) -> Callable:
    """`count` calls of a `resident_step` in one; what they log is stacked, [count] each."""

    def steps(state, teacher, split):
        return jax.lax.scan(lambda state, _: step(state, teacher, split), state, length=count)

    return steps
