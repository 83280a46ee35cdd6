"""Templates of the networks' state dicts: PyTorch's names and shapes, with the Flax paths.

The modules have PyTorch's names, so the mapping is a rule. The parts of a path are joined by dots,
an index after an underscore (`layer1_0`) becomes a separate part (`layer1.0`), two underscores
before a number stand for an underscore (`scale__1`, `scale_1`), and the leaf determines the last
word and the layout of the entry. A test pins the entries of every network. A
few networks have torchvision's entry names; see `published`.
"""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from rrd_jax import networks
from rrd_jax.weights import published
from rrd_jax.weights.key_renaming import with_rank

Shape = tuple[int, ...]

_LAST_WORD = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# Sizes that no layer of a network has. They mark the axes of classes and image channels.
CLASSES, CHANNELS = 10007, 10009


class Entry(NamedTuple):
    """An entry of a state dict.

    Attributes:
      path: path of the Flax leaf.
      shape: shape in PyTorch.
      rank: number of axes of the leaf.
    """

    path: tuple[str, ...]
    shape: Shape
    rank: int


def template(name: str) -> dict[str, Entry]:
    """Returns the entries of a network for CLASSES classes and images with CHANNELS channels."""
    entries_of_modules = _template(networks.factory(name), networks.image_size(name))
    if not (entry_names := published.renaming(name, published.lookup(name).entries)):
        return entries_of_modules
    names = {entry: entry_names.to_foreign(entry) for entry in entries_of_modules}
    return {
        names[entry]: Entry(path, entry_names.shape(names[entry], shape), rank)
        for entry, (path, shape, rank) in entries_of_modules.items()
    }


@functools.cache
def _template(factory: networks.Factory, side: int) -> dict[str, Entry]:
    images = jax.ShapeDtypeStruct((1, side, side, CHANNELS), np.float32)
    module = factory(num_classes=CLASSES, dtype=jnp.float32)
    return entries(jax.eval_shape(module.init, jax.random.key(0), images))


def entries(variables: dict[str, Any]) -> dict[str, Entry]:
    """Returns the entries of a network's variables."""
    return {
        entry_name(path): Entry(path, _torch_shape(path[-1], leaf.shape), leaf.ndim)
        for path, leaf in traverse_util.flatten_dict(dict(variables)).items()
    }


def classifier(name: str) -> frozenset[str]:
    """Returns the names of the entries of a network that it lacks without classes.

    These are the entries with one row per class, and those of the modules that the network's
    attribute `classifier_modules` names.
    """
    network = networks.factory(name)(num_classes=CLASSES)
    modules = tuple(f"{module}." for module in getattr(network, "classifier_modules", ()))
    return frozenset(
        entry
        for entry, (_, shape, _) in template(name).items()
        if CLASSES in shape or entry.startswith(modules)
    )


def marked_sizes(name: str, shapes: dict[str, Shape]) -> dict[int, int]:
    """Returns {CLASSES: number of classes, CHANNELS: number of channels} of some shapes."""
    # The defaults apply if the entries are missing.
    marked = {CLASSES: 1000, CHANNELS: 3}
    for entry, (_, shape, _) in template(name).items():
        if len(shapes.get(entry, ())) == len(shape):
            pairs = zip(shape, shapes[entry], strict=True)
            marked |= {mark: size for mark, size in pairs if mark in marked}
    return marked


def expected_shapes(name: str, actual: dict[str, Shape]) -> dict[str, Shape]:
    """Returns the shapes of a network for the classes and channels of the shapes `actual`."""
    marked = marked_sizes(name, actual)
    expected = {
        entry: tuple(marked.get(size, size) for size in shape)
        for entry, (_, shape, _) in template(name).items()
    }
    # The number of positions depends on the image size, so any number is expected.
    for entry in expected.keys() & {networks.POSITIONS}:
        if len(actual.get(entry, ())) == 3:
            expected[entry] = (1, actual[entry][1], expected[entry][2])
    return expected


def entry_name(path: tuple[str, ...]) -> str:
    """Returns the entry name of a Flax leaf, such as `layer1.0.conv1.weight`."""
    modules = [
        re.sub(r"(?<!_)_(\d+)(?=_|$)", r".\1", part).replace("__", "_") for part in path[1:-1]
    ]
    return ".".join([*modules, _LAST_WORD.get(path[-1], path[-1])])


def from_torch_layout(leaf: str, value: np.ndarray, rank: int) -> np.ndarray:
    """Converts PyTorch's array to the layout of a Flax leaf with `rank` axes."""
    value = value.reshape(with_rank(value.shape, rank))
    if leaf != "kernel":
        return value
    return value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)


def to_torch_layout(leaf: str, value: np.ndarray) -> np.ndarray:
    """Converts a Flax leaf to PyTorch's layout; the inverse of `from_torch_layout`."""
    if leaf != "kernel":
        return value
    return value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)


def _torch_shape(leaf: str, shape: Shape) -> Shape:
    return to_torch_layout(leaf, np.broadcast_to(np.float32(0), shape)).shape
