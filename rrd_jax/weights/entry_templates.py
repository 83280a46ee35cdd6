"""What a state dict of each network holds: PyTorch's names and shapes, by our paths.

Modules carry PyTorch's names, so the mapping is a rule. A path is joined by dots, an index that
stands behind an underscore (`layer1_0`) becomes a part of its own (`layer1.0`), and the leaf
decides the entry's last word and layout. A test pins the entries of every network. A few have the
names of torchvision, with which they belong; see `published`.
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
# Sizes that no network has inside, so that they tell where classes and image channels stand.
CLASSES, CHANNELS = 10007, 10009


class Entry(NamedTuple):
    """An entry of a state dict.

    Attributes:
      path: of our leaf.
      shape: PyTorch's.
      rank: number of axes of the leaf.
    """

    path: tuple[str, ...]
    shape: Shape
    rank: int


def template(name: str) -> dict[str, Entry]:
    """The entries of a network of CLASSES classes, for images of CHANNELS channels."""
    entries_of_modules = _template(networks.factory(name), networks.image_size(name))
    if not (own_names := published.renaming(name, published.of(name).entries)):
        return entries_of_modules
    names = {entry: own_names.to_theirs(entry) for entry in entries_of_modules}
    return {
        names[entry]: Entry(path, own_names.shape(names[entry], shape), rank)
        for entry, (path, shape, rank) in entries_of_modules.items()
    }


@functools.cache
def _template(factory: networks.Factory, side: int) -> dict[str, Entry]:
    images = jax.ShapeDtypeStruct((1, side, side, CHANNELS), np.float32)
    module = factory(num_classes=CLASSES, dtype=jnp.float32)
    return entries(jax.eval_shape(module.init, jax.random.key(0), images))


def entries(variables: dict[str, Any]) -> dict[str, Entry]:
    """The entries of a network's variables."""
    return {
        entry_name(path): Entry(path, _torch_shape(path[-1], leaf.shape), leaf.ndim)
        for path, leaf in traverse_util.flatten_dict(dict(variables)).items()
    }


def classifier(name: str) -> frozenset[str]:
    """The entries of a network that have a row for each class."""
    return frozenset(e for e, (_, shape, _) in template(name).items() if CLASSES in shape)


def marked_sizes(name: str, shapes: dict[str, Shape]) -> dict[int, int]:
    """What stands in `shapes` where CLASSES and CHANNELS stand in the template, by these."""
    marked = {CLASSES: 1000, CHANNELS: 3}  # where those entries are missing
    for entry, (_, shape, _) in template(name).items():
        if len(shapes.get(entry, ())) == len(shape):
            pairs = zip(shape, shapes[entry], strict=True)
            marked |= {mark: size for mark, size in pairs if mark in marked}
    return marked


def expected_shapes(name: str, actual: dict[str, Shape]) -> dict[str, Shape]:
    """The shapes of a network, made for the classes and channels of the given ones."""
    marked = marked_sizes(name, actual)
    expected = {
        entry: tuple(marked.get(size, size) for size in shape)
        for entry, (_, shape, _) in template(name).items()
    }
    for entry in expected.keys() & {networks.POSITIONS}:  # of images of any size
        if len(actual.get(entry, ())) == 3:
            expected[entry] = (1, actual[entry][1], expected[entry][2])
    return expected


def entry_name(path: tuple[str, ...]) -> str:
    """The name of an entry, such as `layer1.0.conv1.weight`, from the path of our leaf."""
    modules = [re.sub(r"_(\d+)(?=_|$)", r".\1", part) for part in path[1:-1]]
    return ".".join([*modules, _LAST_WORD.get(path[-1], path[-1])])


def from_torch_layout(leaf: str, value: np.ndarray, rank: int) -> np.ndarray:
    """PyTorch's array as our leaf of this name, with so many axes, has it."""
    value = value.reshape(with_rank(value.shape, rank))
    if leaf != "kernel":
        return value
    return value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)


def to_torch_layout(leaf: str, value: np.ndarray) -> np.ndarray:
    """The inverse of `from_torch_layout`."""
    if leaf != "kernel":
        return value
    return value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)


def _torch_shape(leaf: str, shape: Shape) -> Shape:
    return to_torch_layout(leaf, np.broadcast_to(np.float32(0), shape)).shape
