"""PyTorch state dicts to our variables and back, by name.

Modules carry PyTorch's names, so the mapping is a rule. A path is joined by dots, an index that
stands behind an underscore (`layer1_0`) becomes a part of its own (`layer1.0`), and the leaf
decides the entry's last word and layout. A test pins the entries of every network.
"""

import functools
import re
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from rrd_jax import errors, networks

Shape = tuple[int, ...]

_LAST_WORD = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# Sizes that no network has inside, so that they tell where classes and image channels stand.
_CLASSES, _CHANNELS = 10007, 10009


class _Entry(NamedTuple):
    """An entry of a state dict: the path of our leaf, and PyTorch's shape of it."""

    path: tuple[str, ...]
    shape: Shape


def from_torch(name: str, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Variables of network `name` from a PyTorch state dict.

    Args:
      name: a key of `networks.MODELS`.
      state_dict: entry name to array or tensor; classes and image channels are read off it.

    Returns:
      {"params": ..., "batch_stats": ...} of float32 numpy arrays.

    Raises:
      InputError: names or shapes differ; the message shows both sides, a line per entry.
    """
    arrays = {
        entry: _as_array(value)
        for entry, value in state_dict.items()
        if not entry.endswith("num_batches_tracked")
    }
    if not arrays:
        raise errors.InputError(f"the state dict for {name} is empty")
    given = {entry: value.shape for entry, value in arrays.items()}
    expected = _expected_shapes(name, given)
    if expected != given:
        raise errors.InputError(_describe_difference(name, expected, given))
    flat = {
        path: _from_torch_layout(path[-1], arrays[entry]).astype(np.float32)
        for entry, (path, _) in _template(name).items()
    }
    return traverse_util.unflatten_dict(flat)


def to_torch(name: str, variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """The PyTorch state dict of network `name`; inverse of `from_torch`.

    For PyTorch: `{entry: torch.from_numpy(array) for entry, array in to_torch(...).items()}`; for a
    file: `safetensors.numpy.save_file(to_torch(...), path)`.

    PyTorch also counts the batches that each batch norm saw; nothing reads that count with its
    default momentum, and it is written as 0.
    """
    errors.lookup("model", name, networks.MODELS)
    state_dict = {}
    for path, leaf in traverse_util.flatten_dict(dict(variables)).items():
        entry = _entry_name(path)
        # Contiguous, or safetensors would write it wrongly.
        state_dict[entry] = np.ascontiguousarray(_to_torch_layout(path[-1], np.asarray(leaf)))
        if path[-1] == "var":
            state_dict[entry.replace("running_var", "num_batches_tracked")] = np.array(0)
    return state_dict


def sizes(name: str, variables: dict[str, Any]) -> tuple[int, int]:
    """The numbers of classes and of image channels that a network's variables are made for."""
    shapes = {entry: shape for entry, (_, shape) in _entries(variables).items()}
    marked = _marked_sizes(_template(name), shapes)
    return marked[_CLASSES], marked[_CHANNELS]


def _as_array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor of any device and precision
        value = value.detach().cpu().float()
    return np.asarray(value)


@functools.cache
def _template(name: str) -> dict[str, _Entry]:
    """The entries of a network of _CLASSES classes, for images of _CHANNELS channels."""
    module = networks.create(name, _CLASSES)
    images = jax.ShapeDtypeStruct((1, 32, 32, _CHANNELS), np.float32)
    return _entries(jax.eval_shape(module.init, jax.random.key(0), images))


def _entries(variables: dict[str, Any]) -> dict[str, _Entry]:
    return {
        _entry_name(path): _Entry(path, _torch_shape(path[-1], leaf.shape))
        for path, leaf in traverse_util.flatten_dict(variables).items()
    }


def _marked_sizes(template: dict[str, _Entry], shapes: dict[str, Shape]) -> dict[int, int]:
    """What stands in `shapes` where _CLASSES and _CHANNELS stand in the template, by these."""
    marked = {_CLASSES: 1000, _CHANNELS: 3}  # where those entries are missing
    for name, entry in template.items():
        if len(shapes.get(name, ())) == len(entry.shape):
            pairs = zip(entry.shape, shapes[name], strict=True)
            marked |= {mark: size for mark, size in pairs if mark in marked}
    return marked


def _expected_shapes(name: str, given: dict[str, Shape]) -> dict[str, Shape]:
    """The shapes of a network, made for the classes and channels of the given ones."""
    template = _template(name)
    marked = _marked_sizes(template, given)
    return {
        entry: tuple(marked.get(size, size) for size in shape)
        for entry, (_, shape) in template.items()
    }


def _entry_name(path: tuple[str, ...]) -> str:
    modules = [re.sub(r"_(\d+)", r".\1", part) for part in path[1:-1]]
    return ".".join([*modules, _LAST_WORD[path[-1]]])


def _from_torch_layout(leaf: str, value: np.ndarray) -> np.ndarray:
    if leaf != "kernel":
        return value
    return value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)


def _to_torch_layout(leaf: str, value: np.ndarray) -> np.ndarray:
    if leaf != "kernel":
        return value
    return value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)


def _torch_shape(leaf: str, shape: Shape) -> Shape:
    return _to_torch_layout(leaf, np.broadcast_to(np.float32(0), shape)).shape


def _describe_difference(name: str, expected: dict[str, Shape], given: dict[str, Shape]) -> str:
    differing = [
        entry for entry in sorted(expected | given) if expected.get(entry) != given.get(entry)
    ]
    width = max(map(len, differing))
    lines = [
        f"  {entry:<{width}}  {expected.get(entry, 'absent')!s:<20}  {given.get(entry, 'absent')}"
        for entry in differing
    ]
    fitting = [model for model in networks.MODELS if _expected_shapes(model, given) == given]
    hint = f"; it fits {' and '.join(fitting)}" if fitting else ""
    header = f"  {'entry':<{width}}  {name + ' has':<20}  the state dict has"
    return "\n".join(
        [f"the state dict does not fit {name} in {len(differing)} entries{hint}:", header, *lines]
    )
