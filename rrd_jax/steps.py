"""Factories of the pure functions that are compiled: one train step, one prediction."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rrd_jax import metrics, networks
from rrd_jax.batch import Batch
from rrd_jax.objectives import Objective, ObjectiveState, classifier
from rrd_jax.state import TrainState
from rrd_jax.teacher import ensemble

# (key, images [B, H, W, channels], labels [B]) -> mixed images, and entries for the batch.
Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
# Folded into the key for mixing; epochs, which are folded in for augmentation, never get there.
_MIX = 2**31 - 1


def make_train_step(
    student: Any,
    objectives: dict[str, Objective],
    weights: dict[str, float],
    optimizer: optax.GradientTransformation,
    augment: Any,
    steps_per_epoch: int,
    teacher: Callable[[Any, Batch], Any] | None = None,
    mix: Mix | None = None,
    *,
    warmup: Mapping[str, int] = MappingProxyType({}),
    accumulate: int = 1,
    unroll: bool = True,
    ema: float = 0.0,
) -> Callable[[TrainState, Any, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """One update of the student on the weighted sum of the objectives' batch means.

    Args:
      student: a network of `networks.create`.
      objectives: by name; each is logged unweighted as `loss/<name>`.
      weights: name to factor in the total loss.
      optimizer: what `state.create` was given.
      augment: a `data.augment.Augment`. Views are a function of (state.key, epoch, example index).
      steps_per_epoch: turns the step into the epoch.
      teacher: (its variables, batch) -> its Outputs, by `running` or `recalling`; None for none.
      mix: of images within the batch, after augmentation; its randomness is a function of
        (state.key, step).
      warmup: name to the epochs over which its weight grows: in epoch e, counted from 1, it is
        weight e / epochs.
      accumulate: parts n of a batch that are walked one after the other, for one update with
        their mean gradient. Part i holds the examples i, i + n, i + 2n, ... so that each device
        splits its own. It is normalised by its own statistics, which enter the running ones, and
        is compared with, and pushed to, the memories that the part before it left; all see the
        same parameters.
      unroll: whether the parts are written out, or walked in a loop.
      ema: decay of the average of the student's variables, in [0, 1); used where the state has
        one. Early on it is (1 + step) / (10 + step), so that the first weights are soon forgotten.

    Returns:
      (state, teacher_variables, batch) -> (next state, float32 scalars `loss`, `loss/<name>`,
      `top1` in [0, 1]). `batch` holds `image`, `label` [B] int32 and `index` [B] int32. The
      teacher's variables are read, never donated; None when there is no teacher.
    """
    classifies = classifier(objectives)

    def weight(name, step):
        if not warmup.get(name):
            return weights[name]
        epoch = step // steps_per_epoch + 1
        return weights[name] * jnp.minimum(epoch / warmup[name], 1.0)

    def gradients_of(state, teacher_variables, batch_stats, memory, batch):
        """Of one part of a batch, with what it logs and leaves behind."""
        teacher_outputs = None
        if teacher is not None:
            teacher_outputs = jax.lax.stop_gradient(teacher(teacher_variables, batch))

        def total_loss(params):
            variables = {"params": params["student"], "batch_stats": batch_stats}
            outputs, updated = student.apply(
                variables, batch.image, train=True, mutable=["batch_stats"]
            )
            means, memories, logits = {}, {}, outputs.logits
            for name, objective in objectives.items():
                own = ObjectiveState(params["objectives"][name], state.frozen[name], memory[name])
                losses, memories[name] = objective.loss(own, outputs, teacher_outputs, batch)
                means[name] = jnp.mean(losses)
                if name == classifies:
                    logits = objective.predict(own, outputs)
            total = sum(weight(name, state.step) * mean for name, mean in means.items())
            logged = {f"loss/{name}": mean for name, mean in means.items()}
            logged |= {"loss": total, "top1": metrics.top1(logits, batch.label)}
            return total, (logged, updated["batch_stats"], memories)

        return jax.grad(total_loss, has_aux=True)(state.params)

    def accumulated(state, teacher_variables, batch):
        """The same of a batch in parts."""

        def split(leaf):
            return leaf.reshape(-1, accumulate, *leaf.shape[1:]).swapaxes(0, 1)

        def walk(carry, part):
            summed, batch_stats, memory = carry
            gradients, (logged, *left) = gradients_of(
                state, teacher_variables, batch_stats, memory, part
            )
            return (jax.tree.map(jnp.add, summed, gradients), *left), logged

        start = (jax.tree.map(jnp.zeros_like, state.params), state.batch_stats, state.memory)
        (summed, *left), logged = jax.lax.scan(
            walk, start, jax.tree.map(split, batch), unroll=accumulate if unroll else 1
        )
        mean = jax.tree.map(lambda leaf: leaf / accumulate, summed)
        return mean, (jax.tree.map(jnp.mean, logged), *left)

    def train_step(state, teacher_variables, batch):
        batch = Batch(**batch) if isinstance(batch, dict) else batch
        epoch = state.step // steps_per_epoch
        view = augment.choose(state.key, epoch, batch.index)
        images = augment.show(view, batch.image)
        if mix is not None:
            key = jax.random.fold_in(jax.random.fold_in(state.key, _MIX), state.step)
            images, mixed = mix(key, images, batch.label)
            batch = batch._replace(**mixed)
        batch = batch._replace(image=images, view=view)
        if accumulate > 1:
            gradients, left = accumulated(state, teacher_variables, batch)
        else:
            gradients, left = gradients_of(
                state, teacher_variables, state.batch_stats, state.memory, batch
            )
        logged, batch_stats, memory = left
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.ema
        if average:
            keep = jnp.minimum(ema, (1 + state.step) / (10 + state.step))
            newest = {"params": params["student"], "batch_stats": batch_stats}
            average = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, average, newest)
        return state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            ema=average,
            opt_state=opt_state,
            memory=memory,
        ), logged

    return train_step


def running(network: Any) -> Callable[[Any, Batch], Any]:
    """A teacher that looks at each batch: (variables, batch) -> Outputs."""
    return lambda variables, batch: network.apply(variables, batch.image, train=False)


def recalling(network: Any, views: int) -> Callable[[Any, Batch], Any]:
    """A teacher that has seen all views of all images before; it remembers no maps.

    Args:
      network: of `networks.create`, or an Ensemble.
      views: of an image.

    Returns:
      (remembered, batch) -> Outputs. Of each member of the network, `remembered` holds in
      `embedding` [N * views, D], view by view of image by image, and in `head` the classifier.
    """

    def recall(remembered, batch):
        row = batch.index * views + batch.view
        each = [
            networks.from_embedding(table.at[row].get(mode="promise_in_bounds"), head)
            for table, head in zip(remembered["embedding"], remembered["head"], strict=True)
        ]
        return ensemble.join_outputs(network, each)

    return recall


def from_resident(
    train_step: Callable, steps_per_epoch: int, image_shape: tuple[int, int, int]
) -> Callable:
    """A train step that takes its batch out of a split which lies on the device.

    Images lie there as rows: of [N, H, W, channels], XLA's TPU compiler would make a copy of the
    whole split in each step, in a layout to gather from.

    Args:
      train_step: as `make_train_step`.
      steps_per_epoch: turns the step into a place in the epoch.
      image_shape: (H, W, channels).

    Returns:
      (state, teacher_variables, data) -> as `train_step`; `data` holds `image`
      [N, H * W * channels] uint8, `label` [N], and `order` [steps_per_epoch, B], the indices that
      this epoch's steps see.
    """

    def resident_step(state, teacher_variables, data):
        index = data["order"][state.step % steps_per_epoch]
        image, label = (
            data[name].at[index].get(mode="promise_in_bounds") for name in ("image", "label")
        )
        image = image.reshape(-1, *image_shape)
        return train_step(
            state, teacher_variables, {"image": image, "label": label, "index": index}
        )

    return resident_step


def together(train_step: Callable) -> Callable:
    """A step of several runs at once, which differ in their states and the order of their images.

    Args:
      train_step: of `from_resident` or `repeated`.

    Returns:
      (states, teacher_variables, data) -> (states, what they log); states are a tuple, `order` of
      the data is [runs, steps_per_epoch, B], and what is logged has the axis of runs first.
    """

    def all_steps(states, teacher_variables, data):
        axes = {name: 0 if name == "order" else None for name in data}
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        stacked, logged = jax.vmap(train_step, (0, None, axes))(stacked, teacher_variables, data)
        each = (jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(len(states)))
        return tuple(each), logged

    return all_steps


def repeated(train_step: Callable, count: int) -> Callable:
    """`count` steps of a resident train step in one; what they log is stacked, [count] each."""

    def train_steps(state, teacher_variables, data):
        def step(state, _):
            return train_step(state, teacher_variables, data)

        return jax.lax.scan(step, state, length=count)

    return train_steps


def make_predict(
    network: Any,
    normalize: Callable[[jax.Array], jax.Array],
    classify: Callable[[ObjectiveState, Any], jax.Array] | None = None,
) -> Callable[[Any, jax.Array, jax.Array], dict[str, jax.Array]]:
    """Evaluation of a batch, example by example, so that padding can be cut off exactly.

    Args:
      network: of `networks.create`.
      normalize: uint8 images to what the network sees.
      classify: the `predict` of an objective, whose state is then in the variables; None for the
        network's own classifier.

    Returns:
      (variables, images [B, H, W, channels], labels [B]) -> {"prediction": [B] int32,
      "rank": [B] int32, the number of classes put before the label, "loss": [B] cross-entropy in
      nats, "label": [B]}.
    """

    def predict(variables, images, labels):
        own = {name: value for name, value in variables.items() if name != "classifier"}
        outputs = network.apply(own, normalize(images), train=False)
        logits = outputs.logits
        if classify:
            logits = classify(ObjectiveState(**variables["classifier"]), outputs)
        return {
            "prediction": jnp.argmax(logits, axis=-1),
            "rank": metrics.rank(logits, labels),
            "loss": optax.softmax_cross_entropy_with_integer_labels(logits, labels),
            "label": labels,
        }

    return predict
