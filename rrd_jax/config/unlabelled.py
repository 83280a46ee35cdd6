"""Configs for data without labels: removes supervised parts, and rejects contradictions."""

from collections.abc import Collection, Iterator
from typing import Any

from rrd_jax import errors, objectives
from rrd_jax.objectives import RECORDS
from rrd_jax.settings import Values, kinds
from rrd_jax.terminal import console


def adapt(values: Values, explicit: Collection[str], loaded: Collection[str] = ()) -> None:
    """Removes cross-entropy and the student alone, with a note, if data.use_labels is False.

    Cross-entropy that the user set explicitly is an error instead.

    Args:
      values: checked values; modified in place.
      explicit: paths of the fields that the user set.
      loaded: names of the networks whose weights are in memory.

    Raises:
      InputError: an objective, a teacher or a field of the data needs labels, or there is no
        teacher.
    """
    if values["data.use_labels"]:
        _check_teachers(values, loaded)
        return
    if problem := next(_contradictions(values, explicit, loaded), ""):
        raise errors.InputError(f"data.use_labels is False, {problem}")
    removed = []
    if values["objectives"].pop("ce", None) is not None:
        removed.append("cross-entropy (ce)")
    if values["baseline"]:
        values["baseline"] = False
        removed.append("the student alone (baseline)")
    if removed:
        console.note(f"data.use_labels is False: {' and '.join(removed)} omitted")


def _check_teachers(values: Values, loaded: Collection[str]) -> None:
    """Raises an InputError for a teacher that would be trained without labels."""
    for teacher in values.each_teacher():
        if teacher["teacher.use_labels"] is False and _is_trained(teacher, loaded):
            raise errors.InputError(
                f"{teacher.label}.use_labels is False, but training a teacher needs labels; omit"
                f" {teacher.label}.use_labels, or set {teacher.label}.checkpoint to trained"
                " weights"
            )


def _is_trained(teacher: Values, loaded: Collection[str]) -> bool:
    """Returns True if a teacher is trained before the student."""
    model = teacher["teacher.model"]
    has_weights = teacher["teacher.checkpoint"] or model in loaded
    return bool(model) and bool(teacher["teacher.fine_tune"] or not has_weights)


def _contradictions(
    values: Values, explicit: Collection[str], loaded: Collection[str]
) -> Iterator[str]:
    """Yields each contradiction to data.use_labels=False, as the rest of a sentence."""
    terms: dict[str, Any] = values["objectives"]
    supervised = [name for name in terms if _needs_labels(values, name, explicit)]
    unsupervised = [name for name in terms if name not in supervised and name != "ce"]
    usable = ", ".join(objectives.without_labels())
    if supervised:
        verb = "need" if len(supervised) > 1 else "needs"
        yield f"but {' and '.join(supervised)} {verb} labels; use objectives without: {usable}"
    if not unsupervised:
        yield f"but no objective works without labels; use some of: {usable}"
    yield from _teacher_contradictions(values, loaded)
    if values["eval.knn"] and not values["eval.labelled"]:
        yield (
            "but eval.knn is True, which needs labels; set eval.knn to False, or set eval.labelled"
            " to labeled images; eval.proof needs no labels"
        )


def _needs_labels(values: Values, name: str, explicit: Collection[str]) -> bool:
    """Returns True if an objective needs labels; for ce, only if the user set ce explicitly."""
    options = values["objectives"][name]
    if options.get("factory") or name not in RECORDS:
        # A custom objective is checked once shapes are known.
        return False
    if name != "ce":
        return RECORDS[name].needs_labels
    is_explicit = "ce" in values["method"].split("+") or not values["method"]
    is_explicit |= any(path.startswith("objectives.ce.") for path in explicit)
    return bool(options["weight"]) and is_explicit


def _teacher_contradictions(values: Values, loaded: Collection[str]) -> Iterator[str]:
    teachers = values.with_models()
    if not teachers:
        yield "but there is no teacher to learn from; set teacher.model"
    for teacher in teachers:
        label, model = teacher.label, kinds.short_repr(teacher["teacher.model"])
        if _is_trained(teacher, loaded) and not teacher["teacher.use_labels"]:
            yield (
                f"but training the teacher {model} needs labels; set {label}.checkpoint to trained"
                f" weights, or, if the images have labels, set {label}.use_labels to True"
            )
        for name in ("probe", "class_vectors"):
            if value := teacher[f"teacher.{name}"]:
                yield (
                    f"but {label}.{name} is {kinds.short_repr(value)}, which needs the classes of"
                    f" labeled data; omit {label}.{name}"
                )
