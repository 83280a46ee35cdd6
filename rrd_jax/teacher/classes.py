"""The classes of a teacher and those of the data: the same, matched by name, or not compared."""

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


class Classes(NamedTuple):
    """How the classes of a network's weights become those of the data.

    Attributes:
      order: for each class of the data its place among the network's; None where they are the
        same, or the two have no classes in common.
      compares: whether logits of the two mean the same, as far as is known.
      reason: why, in words.
      is_same: whether the two are known to be the same.
    """

    order: tuple[int, ...] | None
    compares: bool
    reason: str
    is_same: bool = False


def match(theirs: Sequence[str], count: int, ours: Sequence[str], num_classes: int) -> Classes:
    """How classes of a network become those of the data: by name, where both have names.

    Args:
      theirs: names of the network's classes; () where they are not known.
      count: how many they are.
      ours: names of the data's; () where they are not known.
      num_classes: how many they are.
    """
    theirs, ours = tuple(theirs), tuple(ours)
    named = theirs and ours and len(set(theirs)) == count and len(set(ours)) == num_classes
    # TFDS numbers classes that have no names.
    numbered = [names == tuple(map(str, range(len(names)))) for names in (theirs, ours)]
    if not named or all(numbered):
        reason = "without names of both, each once, they cannot be matched"
        return Classes(None, count == num_classes, reason)
    if theirs == ours:
        return Classes(None, True, "they are the same", is_same=True)
    places = {name: i for i, name in enumerate(theirs)}
    missing = [name for name in ours if name not in places]
    if missing:
        listed = ", ".join(f"'{errors.printable(name)}'" for name in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return Classes(None, False, f"it does not know {listed}{more}")
    order = tuple(places[name] for name in ours)
    reason = "in another order" if count == num_classes else "some of the teacher's"
    return Classes(order, True, reason)


def with_classes(
    variables: Mapping[str, Any],
    axes: Mapping[str, int],
    order: Sequence[int] | None,
    num_classes: int,
) -> dict[str, Any]:
    """The same weights with a classifier of some classes, or of none that mean anything.

    Args:
      variables: {"params", "batch_stats"}.
      axes: as `NetworkChoice.class_axes` has them.
      order: the classes that are taken; None for zeros in their place.
      num_classes: how many the classifier is to have.
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


def fitted(
    path: pathlib.Path,
    variables: dict[str, Any],
    meta: Mapping[str, Any],
    choice: NetworkChoice,
    dataset: data.Dataset,
    training: Training,
    image_shape: tuple[int, int, int],
) -> tuple[networks.Network, dict[str, Any], bool]:
    """A teacher's weights with the classes of the data, by name; says what is done.

    Returns:
      The network, the weights, and whether there are logits of the data's classes.

    Raises:
      InputError: it is another network; or its classes are not the data's, or it has none, and an
        objective compares them.
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
        warn_of_other_data(path, meta, dataset)
        return network, variables, True
    about = f"the teacher in {path} has {count:,} classes and the data {needed:,}"
    if found.compares:
        console.say(f"{about}: they are matched by name, {found.reason}")
    else:
        about = f"{about}, which are not the same: {found.reason}"
        _check_relations(about, training)
        console.note(
            f"{about}; what it makes of images before its classifier is compared alone, and there"
            " is no agreement with it"
        )
    axes = choice.class_axes(network, image_shape)
    return network, with_classes(variables, axes, found.order, needed), found.compares


def check_headless(what: str, training: Training) -> None:
    """Says that a teacher has no classifier.

    Objectives of users are traced with it later, and say themselves whether they read its logits.

    Raises:
      InputError: an objective of ours needs one.
    """
    ours = [c.name for c in training.objectives if c.needs_classes and c.name in objectives.RECORDS]
    if ours:
        raise errors.InputError(
            f"{what} has no classifier, and {' and '.join(ours)} would compare its logits: train"
            " one on its embeddings with teacher.probe, or name a vector of each class with"
            " teacher.class_vectors; or use objectives on relations or maps, such as method rrd"
        )
    console.note(
        f"{what} has no classifier: what it makes of images is compared alone, and there is no"
        " agreement with it"
    )


def _check_relations(about: str, training: Training) -> None:
    """Raises an InputError for objectives that compare classes with those of a teacher."""
    comparing = [choice.name for choice in training.objectives if choice.needs_classes]
    if comparing:
        raise errors.InputError(
            f"{about}. {' and '.join(comparing)} would compare them: use objectives on relations or"
            " maps, such as method rrd; or name the classes with data.class_names; or fine-tune"
            " the teacher with teacher.fine_tune, or a new classifier of it with teacher.probe"
        )


def warn_of_other_data(path: pathlib.Path, meta: Mapping[str, Any], dataset: data.Dataset) -> None:
    """Warns of a network that was trained on other data, with as many classes.

    Data that were made worse on purpose have the same classes.
    """
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
    """Raises an InputError for a network that is not the one that config and data need."""
    given = (meta["model"], meta["num_classes"], meta["image_shape"][-1])
    needed = (model, dataset.num_classes, dataset.image_shape[-1])
    if given == needed or (any_classes and given[::2] == needed[::2]):
        return
    reason = "it is another network"
    if given[0] == needed[0]:
        reason = "it was trained on other classes, or on other images"
        if any_classes:
            reason += "; teacher.fine_tune trains it for these first"
    form = "{} for {} classes and {} image channels"
    raise errors.InputError(
        f"the network in {path} is {form.format(*given)}, but config and data need"
        f" {form.format(*needed)}: {reason}"
    )
