"""Weights of a file, fitted to a network and data: other classes, channels, sizes of images."""

import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from rrd_jax import checkpoints, data, errors, networks
from rrd_jax.data import model_info
from rrd_jax.terminal import console
from rrd_jax.training.choices import NetworkChoice
from rrd_jax.training.recipe import Recipe, Training
from rrd_jax.weights import files

_COLOURS = {1: "grey", 3: "RGB"}


class Ready(NamedTuple):
    """Weights that a network can start from.

    Attributes:
      weights: by path such as params/conv1/kernel; those of a new classifier are not among them.
      origin: what a run says of them, as JSON: name, digest, and whether the head is new.
      lines: what is to be said of them.
    """

    weights: dict[str, np.ndarray]
    origin: dict[str, str]
    lines: tuple[str, ...]


def read(plan: Recipe, dataset: data.Dataset) -> Ready | None:
    """Reads the weights that the student of a recipe starts from; None for random weights.

    Prints how the weights were changed to fit.

    Args:
      plan: the recipe.
      dataset: the run's.

    Raises:
      InputError: they are missing, damaged, or of another network.
    """
    training = plan.training
    start = training.start
    if not start:
        return None
    if start.variables is not None:
        where, meta, variables = f"'{training.network.model}'", start.meta, start.variables
    else:
        where = start.checkpoint
        variables, meta = files.load(pathlib.Path(where), training.network.model, headless=True)
    prepared = adapt(where, variables, meta, plan, dataset)
    for line in prepared.lines:
        console.say(line)
    return prepared


def adapt(
    where: str,
    variables: Mapping[str, Any],
    meta: Mapping[str, Any],
    plan: Recipe,
    dataset: data.Dataset,
) -> Ready:
    """Adapts weights to a run's network and data: classifier, channels and sizes of images.

    Args:
      where: they are from, for messages.
      variables: {"params", "batch_stats"}, of any classes, channels and sizes of images.
      meta: what is known of them, as `weights.files.load` gives it; empty for nothing.
      plan: the run's recipe.
      dataset: the run's.

    Raises:
      InputError: they are of another network, or cannot be made to fit.
    """
    training, network, shape = plan.training, plan.student, dataset.image_shape
    choice = training.network
    _check_network(where, meta, choice)
    if not dataset.num_classes:
        variables = _without_head(variables, meta, choice, network, shape)
    variables = networks.fit_positions(variables, network, shape)
    given = _by_path({name: variables.get(name, {}) for name in ("params", "batch_stats")})
    wanted = networks.named_shapes(networks.summarize(network, shape).variables)
    axes = {f"params/{name}": i for name, i in choice.class_axes(network, shape).items()}
    digest = checkpoints.digest({name: variables.get(name) for name in ("params", "batch_stats")})
    is_new, why = False, ""
    if axes or dataset.num_classes:
        is_new, why = _is_new(where, meta, training, dataset, _sizes(given, axes))
    changes = (
        [f"its classifier is new, for {dataset.num_classes} classes ({why})"] if is_new else []
    )
    if is_new and not axes:
        raise errors.InputError(
            f"the classifier of '{choice.model}' is to be new, but the network does not report it:"
            " return its parameters as 'head', {'kernel', 'bias'}, in its Outputs"
        )
    weights = {name: value for name, value in given.items() if not (is_new and name in axes)}
    changes += _fit_channels(weights, wanted, meta, shape)
    image_size = _image_size(meta)
    _check_sizes(where, weights, wanted, network, image_size, shape)
    fresh = {name: np.zeros(wanted[name], np.float32) for name in axes if is_new}
    whole = _like(networks.summarize(network, shape).variables, fresh | weights)
    networks.check_weights(where, whole, network, shape)
    changes += _sizes_of_images(image_size, shape)
    origin = {"checkpoint": pathlib.Path(where).name, "digest": digest}
    return Ready(
        weights,
        origin | {"head": "new" if is_new else "kept"},
        (f"[{training.label}] starts from {'; '.join([where, *changes])}",),
    )


def _without_head(
    variables: Mapping[str, Any],
    meta: Mapping[str, Any],
    choice: NetworkChoice,
    network: networks.Network,
    shape: tuple[int, int, int],
) -> Mapping[str, Any]:
    """Weights without those of a classifier, for a network that has none."""
    count = meta.get("num_classes")
    if not count or not isinstance(networks.summarize(network, shape).outputs.logits, tuple):
        return variables
    return without(variables, choice.class_axes(choice.create(count), shape))


def without(variables: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The same weights without parameters at some paths, such as a classifier's."""
    flat = traverse_util.flatten_dict(dict(variables["params"]), sep="/")
    params = {name: value for name, value in flat.items() if name not in names}
    return {**variables, "params": traverse_util.unflatten_dict(params, sep="/")}


def _check_network(where: str, meta: Mapping[str, Any], choice: NetworkChoice) -> None:
    model = meta.get("model", choice.model)
    if model != choice.model:
        raise errors.InputError(
            f"the weights in {where} are of {model}, but config needs {choice.model}: it is another"
            " network"
        )


def _by_path(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {networks.leaf_name(path): leaf for path, leaf in leaves}


def _like(tree: Any, values: Mapping[str, Any]) -> Any:
    """A tree of these values where it has leaves; what the tree lacks is added at its root."""
    names = list(_by_path(tree))
    if sorted(names) == sorted(values):
        return jax.tree.unflatten(jax.tree.structure(tree), [values[name] for name in names])
    return {"params": {}, "batch_stats": {}, **traverse_util.unflatten_dict(dict(values), sep="/")}


def _sizes(given: Mapping[str, Any], axes: Mapping[str, int]) -> int | None:
    """How many classes weights are for, by their classifier; None where it is not known."""
    return next((given[n].shape[i] for n, i in axes.items() if n in given), None)


def _is_new(
    where: str,
    meta: Mapping[str, Any],
    training: Training,
    dataset: data.Dataset,
    classes: int | None,
) -> tuple[bool, str]:
    """Whether the classifier is to be new, and why."""
    head, field = training.start.head, f"{training.start.section}.head"
    there = meta.get("num_classes", dataset.num_classes) if classes is None else classes
    classifier = meta.get("classifier")
    if head == "new":
        return True, f"{field} is new"
    if classifier:
        reason = f"there '{classifier}' classified in its place"
    elif not there:
        reason = "there is none"
    elif there != dataset.num_classes:
        reason = f"there are {there:,} there"
    else:
        theirs = names_to_compare(meta, pathlib.Path(where), dataset)
        differ = theirs and dataset.class_names and theirs != tuple(dataset.class_names)
        return bool(differ and head == "auto"), "they have other names, or another order, there"
    if head == "keep":
        raise errors.InputError(
            f"{field} is keep, but the classifier in {where} cannot be kept for"
            f" {dataset.num_classes:,} classes: {reason}; set it to auto or new"
        )
    return True, reason


def _fit_channels(
    weights: dict[str, Any], wanted: Mapping[str, Any], meta: Mapping[str, Any], shape: Any
) -> list[str]:
    """Makes the first convolution one for grey or RGB images, where it is of the other kind."""
    there = (meta.get("image_shape") or [None])[-1]
    for name, value in weights.items():
        sizes = tuple(value.shape), tuple(wanted.get(name, ()))
        differing = [i for i, pair in enumerate(zip(*sizes, strict=False)) if pair[0] != pair[1]]
        if len(sizes[0]) != 4 or len(sizes[1]) != 4 or len(differing) != 1:
            continue
        axis = differing[0]
        pair = sizes[0][axis], sizes[1][axis]
        if pair not in ((1, 3), (3, 1)) or pair[1] != shape[-1] or there not in (None, pair[0]):
            continue
        value = np.asarray(value, np.float32)
        if pair == (3, 1):  # a grey image is one of three equal channels
            weights[name] = value.sum(axis, keepdims=True)
            how = "its kernels are summed over them"
        else:  # an image of three equal channels gives what the grey one gave
            weights[name] = np.repeat(value / 3, 3, axis)
            how = "a third of its kernels reads each channel"
        module = name.removeprefix("params/").rpartition("/")[0]
        return [f"{module} takes {_COLOURS[pair[1]]} images, and took {_COLOURS[pair[0]]}: {how}"]
    return []


def _check_sizes(
    where: str,
    weights: Mapping[str, Any],
    wanted: Mapping[str, Any],
    network: networks.Network,
    image_size: int | None,
    shape: tuple[int, int, int],
) -> None:
    """Raises an InputError for parameters whose shapes depend on the size of the images."""
    differing = [n for n, v in weights.items() if tuple(v.shape) != wanted.get(n, v.shape)]
    if not differing:
        return
    size, _, channels = shape
    there = image_size or 2 * size
    try:
        other = networks.summarize(network, (there, there, channels)).variables
    except errors.InputError:  # a network made for one size says so
        return
    shapes = networks.named_shapes(other)
    for name in differing:
        if shapes.get(name) != wanted[name]:
            raise errors.InputError(
                f"{name} is {tuple(weights[name].shape)} in {where}, and {wanted[name]} for images"
                f" of {size}x{size} pixels, on whose size it depends: set data.image_size to that"
                " of the weights"
            )


def _sizes_of_images(there: int | None, shape: Sequence[int]) -> list[str]:
    if there in (None, shape[0]):
        return []
    return [f"it saw images of {there}x{there} pixels, and sees {shape[0]}x{shape[0]} now"]


def _image_size(meta: Mapping[str, Any]) -> int | None:
    """Height and width of the images that weights were trained on; None where it is not known."""
    known = model_info.from_json(meta["about"], "it").preprocessing if meta.get("about") else None
    return (meta.get("image_shape") or [None])[0] or (known and known.image_size)


def names_to_compare(
    meta: Mapping[str, Any], path: pathlib.Path, dataset: data.Dataset
) -> tuple[str, ...]:
    """As `class_names`; () too where the same data set has numbers for names on one side.

    TFDS numbers classes without names; `data.class_names` may have named them since, or not yet.
    """
    names = class_names(meta, path)
    numbered = any(
        tuple(some) == tuple(map(str, range(len(some)))) for some in (names, dataset.class_names)
    )
    is_same = data.have_same_origin(meta.get("dataset"), dataset.version)
    return () if numbered and is_same else names


def class_names(meta: Mapping[str, Any], path: pathlib.Path) -> tuple[str, ...]:
    """What the classes of weights are called, in their order; () where that is not known.

    Args:
      meta: as `weights.files.load` gives it.
      path: of the weights; runs of earlier versions have the names in data.json.
    """
    if meta.get("about"):
        return model_info.from_json(meta["about"], str(path)).class_names
    home, _ = files.split(path)
    home = home.parent if home.name == "checkpoints" else home
    try:
        names = errors.read_json(home / "data.json")["classes"]
    except (KeyError, OSError, TypeError, ValueError):
        return ()
    names = names if isinstance(names, list) else []
    return tuple(map(str, names)) if len(names) == meta.get("num_classes") else ()
