"""Checks of a job before training: networks, objectives, shapes and memory."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import data, errors, networks, parallel
from rrd_jax import objectives as registry
from rrd_jax.evaluation import patches
from rrd_jax.jobs import learning_checks, memory_plan
from rrd_jax.objectives.batch import Batch
from rrd_jax.teacher import assembly, ensemble
from rrd_jax.terminal import console
from rrd_jax.training import recipe
from rrd_jax.training.choices import AlignmentChoice, NetworkChoice, TeachingChoice
from rrd_jax.training.recipe import Job


def check(
    job: Job, dataset: data.Dataset, paths: Sequence[pathlib.Path], mesh: jax.sharding.Mesh
) -> dict[str, recipe.Recipe]:
    """Creates the recipes of a job's runs; checks networks, objectives and memory by tracing.

    Args:
      job: the job.
      dataset: the student's data set.
      paths: paths of the teachers' weights, which may not exist before training.
      mesh: the devices.

    Returns:
      The recipe of each run by its key in `job.comparisons`; "" is the key of the student.

    Raises:
      InputError: a network, an objective or a schedule is invalid; a network lacks an output that
        an objective compares; or shapes exceed memory.
    """
    training = job.student.training
    _check_steps(job, len(dataset.train))
    plans = {
        name: recipe.create(part.training, dataset.num_classes, len(dataset.train))
        for name, part in {"": job.student, **job.comparisons}.items()
    }
    plan = plans[""]
    _check_network(plan.student, training.network, dataset)
    outlines, teachers = [], []
    for teacher, path in zip(job.teachers, paths, strict=True):
        network = teacher.network.create(dataset.num_classes)
        _check_network(network, teacher.network, dataset, teacher.teaching)
        if teacher.is_trained_here:
            learning_checks.warn_about_network(teacher.part.training, dataset)
        spec = assembly.TeacherSpec(
            teacher.network,
            teacher.teaching,
            None if teacher.variables is not None else path,
            dataset,
            training,
        )
        outlines.append(assembly.outline(spec))
        teachers.append(networks.summarize(outlines[-1], dataset.image_shape).outputs)
    student = networks.summarize(plan.student, dataset.image_shape).outputs
    if training.alignment and teachers:
        _check_embeddings(training.alignment, dataset, student, *teachers)
    if training.alignment.compares_patches and teachers:
        _check_patches(dataset, plan.student, outlines)
    teacher = ensemble.combined_shapes(teachers, training.teacher_weights)
    states = _trace(plan, student, teacher, dataset)
    _warn_about_classifier(plan, states, student, teacher, dataset)
    batch = _batch(training, dataset.image_shape)
    if not dataset.labelled:
        batch = batch._replace(label=None, other_label=None)
    is_smoke = bool(job.student.source.mock_examples)
    learning_checks.warn(plan, states, teacher, batch, dataset, is_smoke=is_smoke)
    part = training.batch_size // training.accumulate
    maps = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((part, *leaf.shape[1:]), leaf.dtype), student.maps
    )
    # A checkpoint is written from a copy of the state.
    needs = {f"objective '{name}', with a copy, needs": (s, s) for name, s in states.items()}
    needs |= {f"feature maps of the student for {part} images need": maps}
    _check_memory(needs, parallel.machine_bytes())
    memory_plan.check(plan, outlines, dataset, mesh)
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
        is_built_in = name in registry.RECORDS
        visible = batch if dataset.labelled or not is_built_in else plain
        states[name] = registry.check(name, objective, student, teacher, visible)
        if not (dataset.labelled or is_built_in) and registry.reads(
            "label", name, objective, states[name], student, teacher, visible
        ):
            raise errors.InputError(
                f"objective '{name}' reads labels, but data.use_labels is False; objectives without"
                f" labels: {', '.join(registry.without_labels())}"
            )
    return states


def _warn_about_classifier(
    plan: recipe.Recipe, states: dict[str, Any], student: Any, teacher: Any, dataset: data.Dataset
) -> None:
    """Warns about a classifier that no objective trains, whose test accuracy is meaningless."""
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
        f"[{training.label}] no objective trains the classifier, so top-1 measures random"
        " weights; add ce or kd, such as method rrd+kd, or in Python"
        " objectives={'ce': 1.0, 'rrd': 1.0}"
    )


def _check_network(
    network: networks.Network,
    choice: NetworkChoice,
    dataset: data.Dataset,
    teaching: TeachingChoice | None = None,
) -> None:
    """Checks a custom network or a variant of a built-in network.

    The logits of a custom teacher may be missing or have other classes.

    Raises:
      InputError: the outputs of a custom network are invalid.
      FieldError: the fields of a variant contradict each other.
    """
    if not isinstance(network, networks.CustomNetwork) and choice.network is None:
        _check_fields(network, choice.model, dataset.image_shape)
        return
    count = None if teaching and teaching.classifier else dataset.num_classes or None
    needs_logits = teaching is None and dataset.num_classes > 0
    networks.check(network, choice.model, count, dataset.image_shape, needs_logits=needs_logits)
    networks.check_independence(network, choice.model, dataset.image_shape)


def _check_fields(network: networks.Network, name: str, image_shape: tuple[int, int, int]) -> None:
    """Raises a FieldError if a variant of a built-in network cannot be built from its fields."""
    if "(" not in name:
        return
    try:
        networks.summarize(network, image_shape)
    except errors.InputError:
        # Images of a teacher may have another size.
        return
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise errors.FieldError(
            f"no network has the fields of {name}: {errors.printable(str(error))}; change the"
            " options of the network, such as heads to a divisor of the width"
        ) from error


def _check_memory(needs: dict[str, Any], memory: int) -> None:
    """Raises a FieldError for arrays that exceed the memory of all hosts and devices.

    Args:
      needs: shapes of arrays, by the first words of the error message about them.
      memory: bytes of all hosts and devices.
    """
    for subject, tree in needs.items():
        leaves = jax.tree.leaves(tree)
        if sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) <= memory:
            continue
        largest = max(leaves, key=lambda leaf: leaf.size)
        axes = " x ".join(map(str, largest.shape))
        size = largest.size * largest.dtype.itemsize / 1e9
        raise errors.FieldError(
            f"{subject} more than the {memory / 1e9:.3g} GB of memory: the largest array is {axes}"
            f" x {largest.dtype.itemsize} bytes = {size:.3g} GB; reduce this array or the"
            " batch size"
        )


def _check_embeddings(choice: AlignmentChoice, dataset: data.Dataset, *outputs: Any) -> None:
    """Raises an InputError if embeddings of held-out images are missing or too few to compare."""
    if choice.on and len(dataset.test) < 3:
        raise errors.InputError(
            f"eval.proof needs at least 3 test images, but the test split has {len(dataset.test)};"
            " set eval.proof to False, or data.test_split to a larger split"
        )
    for i, output in enumerate(outputs):
        if isinstance(output.embedding, tuple):
            raise errors.InputError(
                "eval.proof, eval.knn and eval.labelled compare embeddings, but the network of the"
                f" {'teacher' if i else 'student'} returns none; return a pair (logits, embedding),"
                " or omit these fields"
            )


def _check_patches(
    dataset: data.Dataset, student: networks.Network, teachers: Sequence[networks.Network]
) -> None:
    """Raises an InputError if patches of held-out images are missing or too few to compare."""
    for network in (student, *teachers):
        role = "student" if network is student else "teacher"
        height, width, _ = patches.check(network, dataset.image_shape, role)
        if len(dataset.test) * height * width < 3:
            raise errors.InputError(
                f"eval.patches and eval.dense compare at least 3 patches, but {len(dataset.test)}"
                f" test images have {height} x {width} patches of the {role}; set"
                " data.test_split to a larger split"
            )


def _check_steps(job: Job, examples: int) -> None:
    """Raises a FieldError if the number of steps exceeds 32 bits."""
    for part in (job.student, *(teacher.part for teacher in job.teachers)):
        epochs, steps = part.training.epochs, examples // part.training.batch_size
        if epochs * steps >= 2**31:
            raise errors.FieldError(
                f"train.epochs {epochs} x {steps} steps = {epochs * steps}, but the number of steps"
                " must be less than 2**31; reduce train.epochs"
            )


def _batch(training: recipe.Training, image_shape: tuple[int, int, int]) -> Batch:
    """Returns the shapes of a batch for objectives."""
    size = training.batch_size // training.accumulate
    images = jax.ShapeDtypeStruct((size, *image_shape), jnp.float32)
    numbers = jax.ShapeDtypeStruct((size,), jnp.int32)
    share = jax.ShapeDtypeStruct((size,), jnp.float32)
    is_mixed = training.mix is not None
    return Batch(
        image=images,
        label=numbers,
        index=numbers,
        view=numbers,
        other_label=numbers if is_mixed else None,
        share=share if is_mixed else None,
    )
