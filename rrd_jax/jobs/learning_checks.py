"""Warnings before training about parts of a run that learn nothing, or that never fill up."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax

from rrd_jax import data, networks
from rrd_jax import objectives as registry
from rrd_jax.objectives import rrd_patches
from rrd_jax.objectives.batch import Batch
from rrd_jax.objectives.parts import memory
from rrd_jax.terminal import console
from rrd_jax.training.recipe import Recipe, Training


def warn(
    plan: Recipe,
    states: Mapping[str, Any],
    teacher: Any,
    batch: Batch,
    dataset: data.Dataset,
    *,
    is_smoke: bool = False,
) -> None:
    """Warns about weights, warm-ups, memories and gradients with which nothing is learnt.

    Args:
      plan: recipe of a run.
      states: states of the objectives, as shapes.
      teacher: the teacher's Outputs as shapes; None without a teacher.
      batch: the shapes of a batch.
      dataset: the data set of the run.
      is_smoke: True for a test on random images, whose epochs may be fewer than those of a
        published warm-up.
    """
    training = plan.training
    for problem in (
        *_weights(plan),
        *_warmups(training, is_smoke=is_smoke),
        *_memories(training, states, len(dataset.train)),
        *_gradients(plan, states, teacher, batch, dataset),
    ):
        console.warn(f"[{training.label}] {problem}")


def warn_about_network(training: Training, dataset: data.Dataset) -> None:
    """Warns about a custom network, trained alone, whose logits have no gradient."""
    network = training.network.create(dataset.num_classes)
    if not isinstance(network, networks.CustomNetwork):
        return
    outputs = networks.trained_outputs(network, dataset.image_shape)
    if not any(jax.tree.leaves(outputs.logits)):
        console.warn(
            f"[{training.label}] the network learns nothing, because its logits have no gradient"
            " for its parameters; check for stop_gradient"
        )


def _weights(plan: Recipe) -> Iterator[str]:
    for name, term in plan.terms.items():
        if not term.weight and not term.objective.stage:
            yield (
                f"objectives.{name}.weight is 0, so {name} trains nothing; omit {name}, or set a"
                " weight above 0"
            )


def _warmups(training: Training, *, is_smoke: bool) -> Iterator[str]:
    """Yields the warm-ups that do not end within the run."""
    epochs, optimizer = training.epochs, training.optimizer
    for choice in training.objectives:
        record = registry.RECORDS.get(choice.name)
        is_published = record is not None and record.warmup == choice.warmup
        if choice.weight and choice.warmup > epochs and not (is_smoke and is_published):
            reached = choice.weight * epochs / choice.warmup
            yield (
                f"objectives.{choice.name}.warmup is {choice.warmup} epochs, but train.epochs is"
                f" {epochs}: the weight reaches {reached:.3g} of {choice.weight:g}; set a shorter"
                " warm-up"
            )
    has_rates = not hasattr(optimizer.transform, "update")
    if has_rates and optimizer.warmup_epochs >= epochs:
        yield (
            f"optimizer.warmup_epochs is {optimizer.warmup_epochs:g} and train.epochs is {epochs}:"
            f" the learning rate never reaches {optimizer.learning_rate:g}; set a shorter warm-up"
        )


def _memories(training: Training, states: Mapping[str, Any], examples: int) -> Iterator[str]:
    """Yields the queues with rows that the run never replaces."""
    images = examples // training.batch_size * training.batch_size
    kinds = (memory.Queue, rrd_patches.PatchMemory)
    for name, state in states.items():
        leaves = jax.tree.leaves(state.memory, is_leaf=lambda node: isinstance(node, kinds))
        options = next(c.options for c in training.objectives if c.name == name)
        for compared, kind in zip(("images", "patches"), kinds, strict=True):
            queues = [getattr(leaf, "queue", leaf) for leaf in leaves if isinstance(leaf, kind)]
            rows = max((queue.rows.shape[0] for queue in queues), default=0)
            is_patches = compared == "patches"
            epoch = images * (options.get("patches_per_image", 1) if is_patches else 1)
            pushed = training.epochs * epoch
            if rows <= pushed:
                continue
            names = ("patch_queue_size",) if is_patches else memory.SIZES
            option = next((option for option in names if option in options), "")
            remedy = f"set objectives.{name}.{option}={epoch}" if option else f"use {epoch} rows"
            yield (
                f"the memory of {name} has {rows:,} rows, but the run pushes only {pushed:,}, so"
                f" that {compared} are compared with initial rows to its end; {remedy}, the rows of"
                " an epoch"
            )


def _gradients(
    plan: Recipe, states: Mapping[str, Any], teacher: Any, batch: Batch, dataset: data.Dataset
) -> list[str]:
    """Returns the objectives without a gradient, or one line if the student has none."""
    training, network = plan.training, plan.student
    frozen = training.frozen(network, dataset.image_shape)
    custom = {name for name in plan.terms if name not in registry.RECORDS}
    # Built-in networks and objectives have gradients.
    if not (frozen or custom or not _is_built_in(training)):
        return []
    student = networks.summarize(network, dataset.image_shape).outputs
    outputs = networks.trained_outputs(network, dataset.image_shape, frozen)
    learns, problems = any(term.objective.stage for term in plan.terms.values()), []
    for name, term in plan.terms.items():
        if not term.weight or term.objective.stage:
            continue
        trained = registry.trained(name, term.objective, states[name], student, teacher, batch)
        pairs = zip(jax.tree.leaves(outputs), jax.tree.leaves(trained.student), strict=True)
        if any(map(all, pairs)):
            learns = True
        elif name in custom and not trained.params:
            problems.append(
                f"objective '{name}' trains nothing, because its loss has no gradient for the"
                " student; check which outputs it compares, and for stop_gradient"
            )
    if learns:
        return problems
    without = [part for part, value in outputs._asdict().items() if not _any(value)]
    present = [part for part in without if jax.tree.leaves(getattr(outputs, part))]
    detail = f" ({', '.join(present)} of the network have none)" if present else ""
    return [
        f"the student learns nothing, because no loss has a gradient for its parameters{detail};"
        " check for stop_gradient, student.freeze, and the outputs that the objectives compare"
    ]


def _any(tree: Any) -> bool:
    return any(jax.tree.leaves(tree))


def _is_built_in(training: Training) -> bool:
    return training.network.network is None and training.network.model in networks.MODELS
