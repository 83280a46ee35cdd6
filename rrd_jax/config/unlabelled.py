"""What a config means without labels: what is left out of it, and what cannot be."""

from collections.abc import Collection, Iterator

from ml_collections import ConfigDict

from rrd_jax import errors, objectives
from rrd_jax.config import checks, kinds
from rrd_jax.objectives import RECORDS
from rrd_jax.terminal import console


def adapted(config: ConfigDict, asked: Collection[str], given: Collection[str] = ()) -> ConfigDict:
    """A config without what learns from labels alone, where data.use_labels is False; says so.

    That is cross-entropy, where a method only brings it along, and the student alone.

    Args:
      config: checked fields; it is not changed.
      asked: the paths of the fields that a user set.
      given: names of the networks whose weights are in memory.

    Raises:
      InputError: an objective, a teacher or a field of the data that needs labels, or no teacher.
    """
    if config.data.use_labels:
        _check_teachers(config, given)
        return config
    if fault := next(_faults(config, asked, given), ""):
        raise errors.InputError(f"data.use_labels is False, {fault}")
    left_out = []
    config = config.copy_and_resolve_references()
    with config.unlocked():
        if "ce" in config.objectives:
            del config.objectives.ce
            left_out.append("cross-entropy (ce)")
        if config.baseline:
            config.baseline = False
            left_out.append("the student alone (baseline)")
    if left_out:
        console.note(f"data.use_labels is False: {' and '.join(left_out)} left out")
    return config


def _check_teachers(config: ConfigDict, given: Collection[str]) -> None:
    """Raises an InputError for a teacher that is to be trained without labels that there are."""
    for label, fields in checks.teachers(config):
        if fields.use_labels is False and _is_trained(fields, given):
            raise errors.InputError(
                f"{label}.use_labels is False, and no teacher is trained without labels: leave it"
                f" out, or name its weights with {label}.checkpoint"
            )


def _is_trained(fields: ConfigDict, given: Collection[str]) -> bool:
    """Whether a teacher is trained before the student."""
    has_weights = fields.checkpoint or fields.model in given
    return bool(fields.model) and bool(fields.fine_tune or not has_weights)


def _faults(config: ConfigDict, asked: Collection[str], given: Collection[str]) -> Iterator[str]:
    """What needs labels, or leaves nothing to learn from, as the rest of a sentence."""
    needing = [name for name in config.objectives if _needs_labels(config, name, asked)]
    others = [name for name in config.objectives if name not in needing and name != "ce"]
    usable = ", ".join(objectives.without_labels())
    if needing:
        yield f"but {' and '.join(needing)} would learn from labels; without them learn: {usable}"
    if not others:
        yield f"and so no objective is left; without labels learn: {usable}"
    yield from _faults_of_teachers(config, given)
    if config.eval.knn and not config.eval.labelled:
        yield (
            "but eval.knn classifies by labels: set it to False, or name other images that have"
            " some with eval.labelled; eval.proof needs none"
        )
    for name, plain in (("per_class", 0), ("imbalance", 1.0), ("label_noise", 0.0)):
        if config.data[name] != plain:
            yield (
                f"but data.{name} is {config.data[name]:g}, which is of classes: set it to"
                f" {plain:g}"
            )


def _needs_labels(config: ConfigDict, name: str, asked: Collection[str]) -> bool:
    """Whether an objective is there for labels; ce where it was asked for, not brought along."""
    fields = config.objectives[name]
    if fields.get("factory") or name not in RECORDS:
        return False  # it is looked at once there are shapes
    if name != "ce":
        return RECORDS[name].needs_labels
    is_asked = "ce" in config.method.split("+") or not config.method
    return bool(fields.weight) and (
        is_asked or any(path.startswith("objectives.ce.") for path in asked)
    )


def _faults_of_teachers(config: ConfigDict, given: Collection[str]) -> Iterator[str]:
    taught = [(label, fields) for label, fields in checks.teachers(config) if fields.model]
    if not taught:
        yield "but there is no teacher to learn from: name one with teacher.model"
    for label, fields in taught:
        if _is_trained(fields, given) and not fields.use_labels:
            yield (
                f"and no teacher is trained without labels: name the weights of"
                f" {kinds.shown(fields.model)} with {label}.checkpoint=FILE, or where the images"
                f" have labels train it with them, {label}.use_labels=True"
            )
        for name in ("probe", "class_vectors"):
            if fields[name]:
                yield (
                    f"but {label}.{name} is {kinds.shown(fields[name])}, which is for the classes"
                    f" of the data: leave it out"
                )
