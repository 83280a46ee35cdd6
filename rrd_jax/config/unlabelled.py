"""Configs without labels: what is left out of them, and what is refused."""

from collections.abc import Collection, Iterator
from typing import Any

from rrd_jax import errors, objectives
from rrd_jax.objectives import RECORDS
from rrd_jax.settings import Values, kinds
from rrd_jax.terminal import console


def adapt(values: Values, explicit: Collection[str], loaded: Collection[str] = ()) -> None:
    """Leaves out what learns from labels alone, if data.use_labels is False, with a note.

    That is cross-entropy, unless the user asked for it, and the student alone.

    Args:
      values: checked values, which are changed.
      explicit: the paths of the fields that a user set.
      loaded: names of the networks whose weights are in memory.

    Raises:
      InputError: an objective, a teacher or a field of the data needs labels, or there is no
        teacher.
    """
    if values["data.use_labels"]:
        _check_teachers(values, loaded)
        return
    if fault := next(_faults(values, explicit, loaded), ""):
        raise errors.InputError(f"data.use_labels is False, {fault}")
    left_out = []
    if values["objectives"].pop("ce", None) is not None:
        left_out.append("cross-entropy (ce)")
    if values["baseline"]:
        values["baseline"] = False
        left_out.append("the student alone (baseline)")
    if left_out:
        console.note(f"data.use_labels is False: {' and '.join(left_out)} left out")


def _check_teachers(values: Values, loaded: Collection[str]) -> None:
    """Raises an InputError for a teacher that is to be trained without its labels."""
    for teacher in values.each_teacher():
        if teacher["teacher.use_labels"] is False and _is_trained(teacher, loaded):
            raise errors.InputError(
                f"{teacher.label}.use_labels is False, and no teacher is trained without labels:"
                f" leave it out, or name its weights with {teacher.label}.checkpoint"
            )


def _is_trained(teacher: Values, loaded: Collection[str]) -> bool:
    """Returns True if a teacher is trained before the student."""
    model = teacher["teacher.model"]
    has_weights = teacher["teacher.checkpoint"] or model in loaded
    return bool(model) and bool(teacher["teacher.fine_tune"] or not has_weights)


def _faults(values: Values, explicit: Collection[str], loaded: Collection[str]) -> Iterator[str]:
    """Yields what needs labels, or leaves nothing to learn from, as the rest of a sentence."""
    terms: dict[str, Any] = values["objectives"]
    needing = [name for name in terms if _needs_labels(values, name, explicit)]
    others = [name for name in terms if name not in needing and name != "ce"]
    usable = ", ".join(objectives.without_labels())
    if needing:
        yield f"but {' and '.join(needing)} would learn from labels; without them learn: {usable}"
    if not others:
        yield f"and so no objective is left; without labels learn: {usable}"
    yield from _faults_of_teachers(values, loaded)
    if values["eval.knn"] and not values["eval.labelled"]:
        yield (
            "but eval.knn classifies by labels: set it to False, or name other images that have"
            " some with eval.labelled; eval.proof needs none"
        )
    for name, plain in (("per_class", 0), ("imbalance", 1.0), ("label_noise", 0.0)):
        value = values[f"data.{name}"]
        if value != plain:
            yield f"but data.{name} is {value:g}, which is of classes: set it to {plain:g}"


def _needs_labels(values: Values, name: str, explicit: Collection[str]) -> bool:
    """Returns True if an objective is there for labels; ce only if the user asked for it."""
    options = values["objectives"][name]
    if options.get("factory") or name not in RECORDS:
        return False  # A user's objective is checked once shapes are known.
    if name != "ce":
        return RECORDS[name].needs_labels
    is_explicit = "ce" in values["method"].split("+") or not values["method"]
    is_explicit |= any(path.startswith("objectives.ce.") for path in explicit)
    return bool(options["weight"]) and is_explicit


def _faults_of_teachers(values: Values, loaded: Collection[str]) -> Iterator[str]:
    teachers = values.with_models()
    if not teachers:
        yield "but there is no teacher to learn from: name one with teacher.model"
    for teacher in teachers:
        label, model = teacher.label, kinds.short_repr(teacher["teacher.model"])
        if _is_trained(teacher, loaded) and not teacher["teacher.use_labels"]:
            yield (
                f"and no teacher is trained without labels: name the weights of {model} with"
                f" {label}.checkpoint=FILE, or where the images have labels train it with them,"
                f" {label}.use_labels=True"
            )
        for name in ("probe", "class_vectors"):
            if value := teacher[f"teacher.{name}"]:
                yield (
                    f"but {label}.{name} is {kinds.short_repr(value)}, which needs the classes of"
                    f" labelled data: leave {label}.{name} out"
                )
