"""Checks of a job before anything is trained: networks, objectives, shapes and memory."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import data, errors, networks, parallel
from rrd_jax import objectives as registry
from rrd_jax.objectives.batch import Batch
from rrd_jax.teacher import assembly, ensemble
from rrd_jax.terminal import console
from rrd_jax.training import recipe
from rrd_jax.training.choices import AlignmentChoice, NetworkChoice, TeachingChoice
from rrd_jax.training.recipe import Job


def check(
    job: Job, dataset: data.Dataset, paths: Sequence[pathlib.Path]
) -> dict[str, recipe.Recipe]:
    """Creates the recipes of a job's runs, and checks networks, objectives and memory by tracing.

    Args:
      job: the job.
      dataset: the student's.
      paths: where the weights of each teacher are, or will be.

    Returns:
      The recipe of each run by its key in `job.comparisons`, of the student under "".

    Raises:
      InputError: a network, an objective or a schedule is invalid; a network lacks an output that
        an objective compares; shapes exceed memory.
    """
    training = job.student.training
    _check_steps(job, len(dataset.train))
    plans = {
        name: recipe.create(part.training, dataset.num_classes, len(dataset.train))
        for name, part in {"": job.student, **job.comparisons}.items()
    }
    plan = plans[""]
    _check_custom(plan.student, training.network, dataset)
    teachers = []
    for teacher, path in zip(job.teachers, paths, strict=True):
        network = teacher.network.create(dataset.num_classes)
        _check_custom(network, teacher.network, dataset, teacher.teaching)
        setting = assembly.TeacherSpec(
            teacher.network,
            teacher.teaching,
            None if teacher.variables is not None else path,
            dataset,
            training,
        )
        outline = assembly.outline(setting)
        teachers.append(networks.summarize(outline, dataset.image_shape).outputs)
    student = networks.summarize(plan.student, dataset.image_shape).outputs
    if training.alignment and teachers:
        _check_embeddings(training.alignment, dataset, student, *teachers)
    teacher = ensemble.combined_shapes(teachers, training.teacher_weights)
    states = _trace(plan, student, teacher, dataset)
    _warn_of_classifier(plan, states, student, teacher, dataset)
    part = training.batch_size // training.accumulate
    maps = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((part, *leaf.shape[1:]), leaf.dtype), student.maps
    )
    # A checkpoint is written from a copy of the state.
    needs = {f"objective '{name}' keeps, with a copy,": (s, s) for name, s in states.items()}
    needs |= {f"the student's maps of {part} images take": maps}
    _check_memory(needs, parallel.machine_bytes())
    return plans


def check_teacher(plan: recipe.Recipe, dataset: data.Dataset, network: networks.Network) -> None:
    """Traces the objectives with a loaded teacher if it has no classifier.

    Raises:
      InputError: an objective reads the teacher's logits.
    """
    teacher = networks.summarize(network, dataset.image_shape).outputs
    if isinstance(teacher.logits, tuple):
        student = networks.summarize(plan.student, dataset.image_shape).outputs
        _trace(plan, student, teacher, dataset)


def _trace(
    plan: recipe.Recipe, student: Any, teacher: Any, dataset: data.Dataset
) -> dict[str, Any]:
    """Returns the states of the objectives, as shapes; see `objectives.check`."""
    batch = _batch(plan.training, dataset.image_shape)
    plain = batch._replace(label=None, other_label=None)
    states = {}
    for name, objective in plan.objectives.items():
        is_ours = name in registry.RECORDS
        seen = batch if dataset.labelled or not is_ours else plain
        states[name] = registry.check(name, objective, student, teacher, seen)
        if not (dataset.labelled or is_ours) and registry.reads(
            "label", name, objective, states[name], student, teacher, seen
        ):
            raise errors.InputError(
                f"objective '{name}' reads labels, but data.use_labels is False; of ours learn"
                f" without labels: {', '.join(registry.without_labels())}"
            )
    return states


def _warn_of_classifier(
    plan: recipe.Recipe, states: dict[str, Any], student: Any, teacher: Any, dataset: data.Dataset
) -> None:
    """Warns of a classifier that no objective trains, whose test figures mean nothing."""
    training = plan.training
    if not dataset.labelled or training.start or registry.classifier(plan.objectives):
        return
    batch = _batch(training, dataset.image_shape)
    for name, term in plan.terms.items():
        if term.weight and registry.reads_logits(
            name, term.objective, states[name], student, teacher, batch
        ):
            return
    console.warn(
        f"[{training.label}] no objective trains the classifier: top-1 is that of random weights;"
        " add ce or kd, such as method rrd+kd or in Python objectives={'ce': 1.0, 'rrd': 1.0}"
    )


def _check_custom(
    network: networks.Network,
    choice: NetworkChoice,
    dataset: data.Dataset,
    teaching: TeachingChoice | None = None,
) -> None:
    """Checks a custom network; a teacher may lack logits, or have other classes.

    Raises:
      InputError: its outputs are not those of a network.
    """
    if not isinstance(network, networks.CustomNetwork) and choice.network is None:
        return
    count = None if teaching and teaching.classifier else dataset.num_classes or None
    needs_logits = teaching is None and dataset.num_classes > 0
    networks.check(network, choice.model, count, dataset.image_shape, needs_logits=needs_logits)


def _check_memory(needs: dict[str, Any], memory: int) -> None:
    """Raises an InputError for arrays that the whole machine cannot hold.

    Args:
      needs: shapes, by what is said of them.
      memory: bytes of all hosts and devices.
    """
    for what, tree in needs.items():
        leaves = jax.tree.leaves(tree)
        if sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) <= memory:
            continue
        largest = max(leaves, key=lambda leaf: leaf.size)
        axes = " x ".join(map(str, largest.shape))
        size = largest.size * largest.dtype.itemsize / 1e9
        raise errors.InputError(
            f"{what} more than the {memory / 1e9:.3g} GB of memory: one array alone is {axes} x"
            f" {largest.dtype.itemsize} bytes = {size:.3g} GB; make it or the batch smaller"
        )


def _check_embeddings(choice: AlignmentChoice, dataset: data.Dataset, *outputs: Any) -> None:
    """Raises an InputError where there is nothing to compare on held-out images."""
    if choice.on and len(dataset.test) < 3:
        raise errors.InputError(
            f"eval.proof compares images of the test split, which has {len(dataset.test)}, but"
            " relations need three or more"
        )
    for i, output in enumerate(outputs):
        if isinstance(output.embedding, tuple):
            raise errors.InputError(
                "eval.proof, eval.knn and eval.labelled compare embeddings, but the network of the"
                f" {'teacher' if i else 'student'} returns none: return a pair (logits, embedding),"
                " or leave them out"
            )


def _check_steps(job: Job, examples: int) -> None:
    """Raises an InputError for a training of more steps than 32 bits count."""
    for part in (job.student, *(teacher.part for teacher in job.teachers)):
        epochs, steps = part.training.epochs, examples // part.training.batch_size
        if epochs * steps >= 2**31:
            raise errors.InputError(
                f"train.epochs {epochs} x {steps} steps = {epochs * steps}, but steps are counted"
                " below 2**31"
            )


def _batch(training: recipe.Training, image_shape: tuple[int, int, int]) -> Batch:
    """A batch as objectives see it, as shapes."""
    size = training.batch_size // training.accumulate
    images = jax.ShapeDtypeStruct((size, *image_shape), jnp.float32)
    numbers = jax.ShapeDtypeStruct((size,), jnp.int32)
    share = jax.ShapeDtypeStruct((size,), jnp.float32)
    return Batch(
        images, numbers, numbers, numbers, *((numbers, share) if training.mix is not None else ())
    )
