"""Matching of a teacher's classes with those of the data, by name."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rrd_jax import data, errors, networks, objectives
from rrd_jax.terminal import console
from rrd_jax.training.choices import NetworkChoice
from rrd_jax.training.recipe import Training
from rrd_jax.weights import pretrained


class ClassMatch(NamedTuple):
    """The relation between a network's classes and those of the data.

    Attributes:
      order: index of each class of the data among the network's; None if the classes are the same,
        or cannot be matched.
      compares: whether the logits are of the data's classes, as far as is known.
      reason: an explanation for messages.
      is_same: whether the classes are known to be the same.
    """

    order: tuple[int, ...] | None
    compares: bool
    reason: str
    is_same: bool = False


def match(theirs: Sequence[str], count: int, ours: Sequence[str], num_classes: int) -> ClassMatch:
    """Matches the classes of a network with those of the data, by name if both have names.

    Args:
      theirs: names of the network's classes; () if unknown.
      count: number of the network's classes.
      ours: names of the data's classes; () if unknown.
      num_classes: number of the data's classes.
    """
    theirs, ours = tuple(theirs), tuple(ours)
    named = theirs and ours and len(set(theirs)) == count and len(set(ours)) == num_classes
    # TFDS numbers classes that have no names.
    numbered = [names == tuple(map(str, range(len(names)))) for names in (theirs, ours)]
    if not named or all(numbered):
        reason = "without names of both, each once, they cannot be matched"
        return ClassMatch(None, count == num_classes, reason)
    if theirs == ours:
        return ClassMatch(None, True, "they are the same", is_same=True)
    places = {name: i for i, name in enumerate(theirs)}
    missing = [name for name in ours if name not in places]
    if missing:
        listed = ", ".join(f"'{errors.printable(name)}'" for name in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return ClassMatch(None, False, f"it does not know {listed}{more}")
    order = tuple(places[name] for name in ours)
    reason = "in another order" if count == num_classes else "some of the teacher's"
    return ClassMatch(order, True, reason)


def with_classes(
    variables: Mapping[str, Any],
    axes: Mapping[str, int],
    order: Sequence[int] | None,
    num_classes: int,
) -> dict[str, Any]:
    """Returns the weights with a classifier for other classes.

    Args:
      variables: {"params", "batch_stats"}.
      axes: see `NetworkChoice.class_axes`.
      order: indices of the classes to select; None for a classifier of zeros.
      num_classes: of the new classifier.
    """

    def change(path, leaf):
        name = networks.leaf_name(path)
        if name not in axes:
            return leaf
        if order is not None:
            return np.take(np.asarray(leaf), np.asarray(order), axis=axes[name])
        shape = list(leaf.shape)
        shape[axes[name]] = num_classes
        return np.zeros(shape, np.float32)

    params = jax.tree_util.tree_map_with_path(change, variables["params"])
    return {"params": params, "batch_stats": variables.get("batch_stats", {})}


def fit_classifier(
    path: pathlib.Path,
    variables: dict[str, Any],
    meta: Mapping[str, Any],
    choice: NetworkChoice,
    dataset: data.Dataset,
    training: Training,
    image_shape: tuple[int, int, int],
) -> tuple[networks.Network, dict[str, Any], bool]:
    """Fits a teacher's classifier to the classes of the data, and logs what is changed.

    Returns:
      The network, the weights, and whether the logits are of the data's classes.

    Raises:
      InputError: the weights are of another network; or an objective compares classes, and the
        teacher's are not the data's.
    """
    count, needed = meta["num_classes"], dataset.num_classes
    if not count:
        check_fits(path, meta, choice.model, dataset, any_classes=True)
        check_headless(f"the teacher in {path}", training)
        return choice.create(0), variables, False
    network = choice.create(needed)
    names = pretrained.names_to_compare(meta, path, dataset)
    found = match(names, count, dataset.class_names, needed)
    is_made = choice.network is not None  # for one number of classes
    check_fits(path, meta, choice.model, dataset, any_classes=not is_made)
    if found.is_same:
        return network, variables, True
    if found.order is None and found.compares:
        warn_about_other_data(path, meta, dataset)
        return network, variables, True
    about = f"the teacher in {path} has {count:,} classes and the data {needed:,}"
    if found.compares:
        console.say(f"{about}: they are matched by name, {found.reason}")
    else:
        about = f"{about}, which are not the same: {found.reason}"
        _check_relations(about, training)
        console.note(f"{about}; only its embeddings are compared, and agreement is not measured")
    axes = choice.class_axes(network, image_shape)
    return network, with_classes(variables, axes, found.order, needed), found.compares


def check_headless(what: str, training: Training) -> None:
    """Logs that a teacher has no classifier.

    Custom objectives are traced with this teacher later, and fail there if they read logits.

    Raises:
      InputError: a built-in objective needs a classifier.
    """
    ours = [c.name for c in training.objectives if c.needs_classes and c.name in objectives.RECORDS]
    if ours:
        raise errors.InputError(
            f"{what} has no classifier, and {' and '.join(ours)} would compare its logits: train"
            " one on its embeddings with teacher.probe, or name a vector of each class with"
            " teacher.class_vectors; or use objectives on relations or maps, such as method rrd"
        )
    console.note(
        f"{what} has no classifier: only its embeddings are compared, and agreement is not measured"
    )


def _check_relations(about: str, training: Training) -> None:
    """Raises an InputError if an objective compares classes."""
    comparing = [choice.name for choice in training.objectives if choice.needs_classes]
    if comparing:
        raise errors.InputError(
            f"{about}. {' and '.join(comparing)} would compare them: use objectives on relations or"
            " maps, such as method rrd; or name the classes with data.class_names; or fine-tune"
            " the teacher with teacher.fine_tune, or a new classifier of it with teacher.probe"
        )


def warn_about_other_data(
    path: pathlib.Path, meta: Mapping[str, Any], dataset: data.Dataset
) -> None:
    """Warns about a network trained on other data; degraded data count as the same."""
    trained_on = meta.get("dataset")
    if trained_on and not data.have_same_origin(trained_on, dataset.version):
        console.warn(
            f"the network in {path} was trained on {trained_on}, and these data are"
            f" {dataset.version}: their classes must be the same, in the same order"
        )


def check_fits(
    path: pathlib.Path,
    meta: Mapping[str, Any],
    model: str,
    dataset: data.Dataset,
    *,
    any_classes: bool = False,
) -> None:
    """Raises an InputError for weights of another network than config and data need."""
    stored = (meta["model"], meta["num_classes"], meta["image_shape"][-1])
    needed = (model, dataset.num_classes, dataset.image_shape[-1])
    if stored == needed or (any_classes and stored[::2] == needed[::2]):
        return
    reason = "it is another network"
    if stored[0] == needed[0]:
        reason = "it was trained on other classes, or on other images"
        if any_classes:
            reason += "; teacher.fine_tune trains it for these first"
    form = "{} for {} classes and {} image channels"
    raise errors.InputError(
        f"the network in {path} is {form.format(*stored)}, but config and data need"
        f" {form.format(*needed)}: {reason}"
    )
