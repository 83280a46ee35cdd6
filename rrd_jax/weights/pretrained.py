"""Adapts initial weights to a network and data: classes, image channels and image size."""

import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from rrd_jax import checkpoints, data, errors, networks, user_paths
from rrd_jax.data import model_info
from rrd_jax.terminal import console
from rrd_jax.training.choices import NetworkChoice
from rrd_jax.training.recipe import Recipe, Training
from rrd_jax.weights import files

_COLORS = {1: "gray", 3: "RGB"}


class InitialWeights(NamedTuple):
    """Weights from which training of a network starts.

    Attributes:
      weights: arrays by path, such as params/conv1/kernel, without those of a new classifier.
      origin: JSON that the run records: name, digest, and whether the head is new.
      lines: messages to print.
    """

    weights: dict[str, np.ndarray]
    origin: dict[str, str]
    lines: tuple[str, ...]


def read(plan: Recipe, dataset: data.Dataset) -> InitialWeights | None:
    """Reads the initial weights of a recipe's student; None for random weights.

    Prints how the weights were adapted.

    Args:
      plan: the recipe.
      dataset: data set of the run.

    Raises:
      InputError: the weights are missing or damaged, or belong to another network.
    """
    training = plan.training
    start = training.start
    if not start:
        return None
    if start.variables is not None:
        location, meta, variables = f"'{training.network.model}'", start.meta, start.variables
    else:
        location = start.checkpoint
        variables, meta = files.load(
            user_paths.path_of(location), training.network.model, headless=True
        )
    prepared = adapt(location, variables, meta, plan, dataset)
    for line in prepared.lines:
        console.say(line)
    return prepared


def adapt(
    location: str,
    variables: Mapping[str, Any],
    meta: Mapping[str, Any],
    plan: Recipe,
    dataset: data.Dataset,
) -> InitialWeights:
    """Adapts weights to a run's network and data: classifier, image channels and image size.

    Args:
      location: source of the weights, for messages.
      variables: {"params", "batch_stats"} for any classes, channels and image size.
      meta: metadata of the weights from `weights.files.load`; may be empty.
      plan: recipe of the run.
      dataset: data set of the run.

    Raises:
      InputError: the weights belong to another network or cannot be adapted.
    """
    training, network, shape = plan.training, plan.student, dataset.image_shape
    choice = training.network
    _check_network(location, meta, choice)
    if not dataset.num_classes:
        variables = _without_head(variables, meta, choice, network, shape)
    variables = networks.fit_positions(variables, network, shape, choice.positions)
    arrays = _by_path({name: variables.get(name, {}) for name in ("params", "batch_stats")})
    expected = networks.named_shapes(networks.summarize(network, shape).variables)
    axes = {f"params/{name}": i for name, i in choice.class_axes(network, shape).items()}
    digest = checkpoints.digest({name: variables.get(name) for name in ("params", "batch_stats")})
    is_new, reason = False, ""
    if axes or dataset.num_classes:
        is_new, reason = _is_new(location, meta, training, dataset, _num_classes(arrays, axes))
    changes = [f"new classifier for {dataset.num_classes} classes ({reason})"] if is_new else []
    if is_new and not axes:
        raise errors.InputError(
            f"'{choice.model}' needs a new classifier, but the network does not report its"
            " classifier; return its parameters as 'head', {'kernel', 'bias'}, in its Outputs"
        )
    weights = {name: value for name, value in arrays.items() if not (is_new and name in axes)}
    changes += _fit_channels(weights, expected, meta, shape)
    image_size = _image_size(meta)
    _check_sizes(location, weights, expected, network, image_size, shape)
    new_arrays = {name: np.zeros(expected[name], np.float32) for name in axes if is_new}
    complete = _like(networks.summarize(network, shape).variables, new_arrays | weights)
    networks.check_weights(location, complete, network, shape)
    changes += _image_size_changes(image_size, shape)
    origin = {"checkpoint": pathlib.Path(location).name, "digest": digest}
    return InitialWeights(
        weights,
        origin | {"head": "new" if is_new else "kept"},
        (f"[{training.label}] starts from {'; '.join([location, *changes])}",),
    )


def _without_head(
    variables: Mapping[str, Any],
    meta: Mapping[str, Any],
    choice: NetworkChoice,
    network: networks.Network,
    shape: tuple[int, int, int],
) -> Mapping[str, Any]:
    """Removes the classifier's weights for a network without a classifier."""
    count = meta.get("num_classes")
    if not count or not isinstance(networks.summarize(network, shape).outputs.logits, tuple):
        return variables
    return drop_params(variables, choice.class_axes(choice.create(count), shape))


def drop_params(variables: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Returns variables without the parameters at some paths, such as a classifier's."""
    flat = traverse_util.flatten_dict(dict(variables["params"]), sep="/")
    params = {name: value for name, value in flat.items() if name not in names}
    return {**variables, "params": traverse_util.unflatten_dict(params, sep="/")}


def _check_network(location: str, meta: Mapping[str, Any], choice: NetworkChoice) -> None:
    model = meta.get("model", choice.model)
    if model != choice.model:
        raise errors.InputError(
            f"the weights in {location} are of {model}, but config needs {choice.model}; choose"
            f" weights of {choice.model}, or set model to {model}"
        )


def _by_path(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {networks.leaf_name(path): leaf for path, leaf in leaves}


def _like(tree: Any, values: Mapping[str, Any]) -> Any:
    """Returns a tree of the values; if the names differ from `tree`, builds it from the names."""
    names = list(_by_path(tree))
    if sorted(names) == sorted(values):
        return jax.tree.unflatten(jax.tree.structure(tree), [values[name] for name in names])
    return {"params": {}, "batch_stats": {}, **traverse_util.unflatten_dict(dict(values), sep="/")}


def _num_classes(arrays: Mapping[str, Any], axes: Mapping[str, int]) -> int | None:
    """Returns the number of classes of weights by their classifier; None if it is unknown."""
    return next((arrays[n].shape[i] for n, i in axes.items() if n in arrays), None)


def _is_new(
    location: str,
    meta: Mapping[str, Any],
    training: Training,
    dataset: data.Dataset,
    classes: int | None,
) -> tuple[bool, str]:
    """Returns whether the classifier is replaced by a new one, and the reason."""
    head, field = training.start.head, f"{training.start.section}.head"
    num_classes = meta.get("num_classes", dataset.num_classes) if classes is None else classes
    classifier = meta.get("classifier")
    if head == "new":
        return True, f"{field} is new"
    if classifier:
        reason = f"objective '{classifier}' replaced the network's classifier"
    elif not num_classes:
        reason = "the weights have no classifier"
    elif num_classes != dataset.num_classes:
        reason = f"the number of classes of the weights is {num_classes:,}"
    else:
        names = names_to_compare(meta, pathlib.Path(location), dataset)
        differ = names and dataset.class_names and names != tuple(dataset.class_names)
        return bool(differ and head == "auto"), "class names or their order differ"
    if head == "keep":
        raise errors.InputError(
            f"{field} is keep, but the classifier in {location} cannot be kept for"
            f" {dataset.num_classes:,} classes: {reason}; set it to auto or new"
        )
    return True, reason


def _fit_channels(
    weights: dict[str, Any], expected: Mapping[str, Any], meta: Mapping[str, Any], shape: Any
) -> list[str]:
    """Converts the first convolution between gray and RGB images, if the channels differ."""
    channels = (meta.get("image_shape") or [None])[-1]
    for name, value in weights.items():
        sizes = tuple(value.shape), tuple(expected.get(name, ()))
        differing = [i for i, pair in enumerate(zip(*sizes, strict=False)) if pair[0] != pair[1]]
        if len(sizes[0]) != 4 or len(sizes[1]) != 4 or len(differing) != 1:
            continue
        axis = differing[0]
        pair = sizes[0][axis], sizes[1][axis]
        is_conversion = pair in ((1, 3), (3, 1)) and pair[1] == shape[-1]
        if not is_conversion or channels not in (None, pair[0]):
            continue
        value = np.asarray(value, np.float32)
        # A gray image is equivalent to an RGB image with three equal channels, so both conversions
        # preserve the output for gray images.
        if pair == (3, 1):
            weights[name] = value.sum(axis, keepdims=True)
            method = "kernels summed over channels"
        else:
            weights[name] = np.repeat(value / 3, 3, axis)
            method = "a third of its kernels for each channel"
        module = name.removeprefix("params/").rpartition("/")[0]
        return [
            f"{module} converted from {_COLORS[pair[0]]} to {_COLORS[pair[1]]} images: {method}"
        ]
    return []


def _check_sizes(
    location: str,
    weights: Mapping[str, Any],
    expected: Mapping[str, Any],
    network: networks.Network,
    image_size: int | None,
    shape: tuple[int, int, int],
) -> None:
    """Raises an InputError for parameters whose shapes depend on the image size."""
    differing = [n for n, v in weights.items() if tuple(v.shape) != expected.get(n, v.shape)]
    if not differing:
        return
    size, _, channels = shape
    other_size = image_size or 2 * size
    # A network for a fixed image size raises an error for another size.
    try:
        other = networks.summarize(network, (other_size, other_size, channels)).variables
    except errors.InputError:
        return
    shapes = networks.named_shapes(other)
    for name in differing:
        if shapes.get(name) != expected[name]:
            raise errors.InputError(
                f"{name} has shape {tuple(weights[name].shape)} in {location}, but {expected[name]}"
                f" for {size}x{size} images; its shape depends on the image size; set"
                " data.image_size to the image size of the weights"
            )


def _image_size_changes(image_size: int | None, shape: Sequence[int]) -> list[str]:
    if image_size in (None, shape[0]):
        return []
    return [f"image size changed from {image_size}x{image_size} to {shape[0]}x{shape[0]} pixels"]


def _image_size(meta: Mapping[str, Any]) -> int | None:
    """Returns height and width of the images of the weights' training; None if unknown."""
    about = meta.get("about")
    preprocessing = (
        model_info.from_json(about, "the description of the weights").preprocessing
        if about
        else None
    )
    return (meta.get("image_shape") or [None])[0] or (preprocessing and preprocessing.image_size)


def names_to_compare(
    meta: Mapping[str, Any], path: pathlib.Path, dataset: data.Dataset
) -> tuple[str, ...]:
    """Returns the class names of weights for a comparison with those of a data set.

    The result is () if the names are unknown, or if both belong to one data set and either has
    numbers as names. TFDS numbers classes without names, and `data.class_names` may name them.
    """
    names = class_names(meta, path)
    numbered = any(
        tuple(side) == tuple(map(str, range(len(side)))) for side in (names, dataset.class_names)
    )
    is_same = data.have_same_origin(meta.get("dataset"), dataset.version)
    return () if numbered and is_same else names


def class_names(meta: Mapping[str, Any], path: pathlib.Path) -> tuple[str, ...]:
    """Returns the class names of weights, in the order of labels; () if they are unknown.

    Args:
      meta: metadata from `weights.files.load`.
      path: path of the weights; runs of earlier versions have the names in data.json.
    """
    if meta.get("about"):
        return model_info.from_json(meta["about"], str(path)).class_names
    home, _ = files.split(path)
    home = home.parent if home.name == "checkpoints" else home
    try:
        names = user_paths.read_json(home / "data.json")["classes"]
    except (KeyError, OSError, TypeError, ValueError):
        return ()
    names = names if isinstance(names, list) else []
    return tuple(map(str, names)) if len(names) == meta.get("num_classes") else ()
