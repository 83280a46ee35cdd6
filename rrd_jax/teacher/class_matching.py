"""Matching of a teacher's classes with the classes of the data, by name."""

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
    """The relation between the classes of a network and the classes of the data.

    Attributes:
      order: the network's index of each class of the data; None if the classes are identical or
        cannot be matched.
      compares: whether the logits belong to the classes of the data; without names, whether the
        numbers of classes are equal.
      reason: an explanation for messages.
      is_same: whether the class names are identical.
    """

    order: tuple[int, ...] | None
    compares: bool
    reason: str
    is_same: bool = False


def match(
    network_names: Sequence[str], count: int, data_names: Sequence[str], num_classes: int
) -> ClassMatch:
    """Matches the classes of a network with the classes of the data, by name if possible.

    Args:
      network_names: names of the network's classes; () if unknown.
      count: number of the network's classes.
      data_names: names of the data's classes; () if unknown.
      num_classes: number of the data's classes.
    """
    network_names, data_names = tuple(network_names), tuple(data_names)
    named = (
        network_names
        and data_names
        and len(set(network_names)) == count
        and len(set(data_names)) == num_classes
    )
    # TFDS numbers classes that have no names.
    numbered = [
        names == tuple(map(str, range(len(names)))) for names in (network_names, data_names)
    ]
    if not named or all(numbered):
        reason = "without unique names of both, they cannot be matched"
        return ClassMatch(None, count == num_classes, reason)
    if network_names == data_names:
        return ClassMatch(None, True, "the classes are identical", is_same=True)
    positions = {name: i for i, name in enumerate(network_names)}
    missing = [name for name in data_names if name not in positions]
    if missing:
        examples = ", ".join(f"'{errors.printable(name)}'" for name in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return ClassMatch(None, False, f"missing {examples}{more}")
    order = tuple(positions[name] for name in data_names)
    reason = "another order" if count == num_classes else "a subset of the teacher's classes"
    return ClassMatch(order, True, reason)


def with_classes(
    variables: Mapping[str, Any],
    axes: Mapping[str, int],
    order: Sequence[int] | None,
    num_classes: int,
) -> dict[str, Any]:
    """Returns the weights of a network with a classifier for other classes.

    Args:
      variables: {"params", "batch_stats"}.
      axes: see `NetworkChoice.class_axes`.
      order: indices of the classes to select; None for a classifier of zeros.
      num_classes: number of classes of the new classifier.
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
    """Fits a teacher's classifier to the classes of the data, and logs the change.

    Returns:
      The network, the weights, and whether the logits belong to the classes of the data.

    Raises:
      InputError: the weights belong to another network; or an objective compares classes, and the
        classes of the teacher and the data differ.
    """
    count, needed = meta["num_classes"], dataset.num_classes
    if not count:
        check_fits(path, meta, choice.model, dataset, any_classes=True)
        check_headless(f"the teacher in {path}", training)
        return choice.create(0), variables, False
    network = choice.create(needed)
    names = pretrained.names_to_compare(meta, path, dataset)
    class_match = match(names, count, dataset.class_names, needed)
    # A custom network object has a fixed number of classes.
    has_fixed_classes = choice.network is not None
    check_fits(path, meta, choice.model, dataset, any_classes=not has_fixed_classes)
    if class_match.is_same:
        return network, variables, True
    if class_match.order is None and class_match.compares:
        warn_about_other_data(path, meta, dataset)
        return network, variables, True
    counts = f"the teacher in {path} has {count:,} classes, the data {needed:,}"
    if class_match.compares:
        console.say(f"{counts}: classes matched by name ({class_match.reason})")
    else:
        difference = f"{counts}, and the classes differ: {class_match.reason}"
        _check_relations(difference, training)
        console.note(f"{difference}; only embeddings are compared, and agreement is not measured")
    axes = choice.class_axes(network, image_shape)
    weights = with_classes(variables, axes, class_match.order, needed)
    return network, weights, class_match.compares


def check_headless(description: str, training: Training) -> None:
    """Logs that a teacher has no classifier.

    Custom objectives that read logits fail later, when they are traced with this teacher.

    Args:
      description: how messages refer to the teacher.
      training: the student's training settings.

    Raises:
      InputError: a built-in objective needs a classifier.
    """
    names = [
        c.name for c in training.objectives if c.needs_classes and c.name in objectives.RECORDS
    ]
    if names:
        raise errors.InputError(
            f"{description} has no classifier, but {' and '.join(names)} would compare its logits;"
            " train a classifier with teacher.probe, pass class vectors with teacher.class_vectors,"
            " or use objectives on relations or maps, such as method rrd"
        )
    console.note(
        f"{description} has no classifier; only embeddings are compared, and agreement is not"
        " measured"
    )


def _check_relations(difference: str, training: Training) -> None:
    """Raises an InputError if an objective compares classes.

    Args:
      difference: a description of the teacher's classes, for the message.
      training: the student's training settings.
    """
    names = [choice.name for choice in training.objectives if choice.needs_classes]
    if names:
        raise errors.InputError(
            f"{difference}; {' and '.join(names)} would compare them; use objectives on relations"
            " or maps, such as method rrd, name the classes with data.class_names, fine-tune the"
            " teacher with teacher.fine_tune, or train a new classifier with teacher.probe"
        )


def warn_about_other_data(
    path: pathlib.Path, meta: Mapping[str, Any], dataset: data.Dataset
) -> None:
    """Warns about a network trained on another data set; degradation of data is ignored."""
    trained_on = meta.get("dataset")
    if trained_on and not data.have_same_origin(trained_on, dataset.version):
        stored = (meta.get("about") or {}).get("training", {}).get("dataset_name", trained_on)
        names = f"{stored}, but the data set is {dataset.display_name}"
        if stored == dataset.display_name:
            names = f"{trained_on}, but the data set is {dataset.version}"
        console.warn(
            f"the network in {path} was trained on {names}; make sure that both have identical"
            " classes in the same order"
        )


def check_fits(
    path: pathlib.Path,
    meta: Mapping[str, Any],
    model: str,
    dataset: data.Dataset,
    *,
    any_classes: bool = False,
) -> None:
    """Raises an InputError if weights do not belong to the network of config and data."""
    stored = (meta["model"], meta["num_classes"], meta["image_shape"][-1])
    needed = (model, dataset.num_classes, dataset.image_shape[-1])
    if stored == needed or (any_classes and stored[::2] == needed[::2]):
        return
    reason = "set the model of the checkpoint"
    if stored[0] == needed[0]:
        reason = "its classes or images differ"
        if any_classes:
            reason += "; set teacher.fine_tune to train it on the data first"
    form = "{} for {} classes and {} image channels"
    raise errors.InputError(
        f"the network in {path} is {form.format(*stored)}, but config and data need"
        f" {form.format(*needed)}: {reason}"
    )
