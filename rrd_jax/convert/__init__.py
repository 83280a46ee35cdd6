"""PyTorch state dicts to our variables and back, by name.

Modules carry PyTorch's names, so the mapping is a rule: a path is joined by dots, an index that
stands behind an underscore (`layer1_0`) becomes a part of its own (`layer1.0`), and the leaf
decides the entry's last word and layout. A test pins the entries of every network.
"""

import functools
import re
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from rrd_jax import errors, networks

_ENTRY = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


# Sizes that no network has inside, so that they tell where classes and image channels stand.
_CLASSES, _CHANNELS = 10007, 10009


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
    given = {
        entry: _array(value)
        for entry, value in state_dict.items()
        if not entry.endswith("num_batches_tracked")
    }
    if not given:
        raise errors.InputError(f"the state dict for {name} is empty")
    shapes = {entry: value.shape for entry, value in given.items()}
    wanted = _wanted(name, shapes)
    if wanted != shapes:
        raise errors.InputError(_difference(name, wanted, shapes))
    flat = {
        path: _to_ours(path[-1], given[entry]).astype(np.float32)
        for entry, (path, _) in _expected(name).items()
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
        entry = _entry(path)
        # Contiguous, or safetensors would write it wrongly.
        state_dict[entry] = np.ascontiguousarray(_to_theirs(path[-1], np.asarray(leaf)))
        if path[-1] == "var":
            state_dict[entry.replace("running_var", "num_batches_tracked")] = np.array(0)
    return state_dict


def sizes(name: str, variables: dict[str, Any]) -> tuple[int, int]:
    """The numbers of classes and of image channels that a network's variables are made for."""
    shapes = {entry: shape for entry, (_, shape) in _entries(variables).items()}
    found = _sizes(_expected(name), shapes)
    return found[_CLASSES], found[_CHANNELS]


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor of any device and precision
        value = value.detach().cpu().float()
    return np.asarray(value)


@functools.cache
def _expected(name: str) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """PyTorch's entries: our path and PyTorch's shape of each."""
    module = networks.create(name, _CLASSES)
    images = jax.ShapeDtypeStruct((1, 32, 32, _CHANNELS), np.float32)
    return _entries(jax.eval_shape(module.init, jax.random.key(0), images))


def _entries(variables: dict[str, Any]) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Our path and PyTorch's shape, by PyTorch's entry."""
    return {
        _entry(path): (path, _torch_shape(path[-1], leaf.shape))
        for path, leaf in traverse_util.flatten_dict(variables).items()
    }


def _sizes(expected: dict[str, tuple], given: dict[str, tuple[int, ...]]) -> dict[int, int]:
    """What stands in the given shapes where classes and channels stand in the expected ones."""
    found = {_CLASSES: 1000, _CHANNELS: 3}  # where those entries are missing
    for entry, (_, shape) in expected.items():
        if len(given.get(entry, ())) == len(shape):
            pairs = zip(shape, given[entry], strict=True)
            found |= {mark: size for mark, size in pairs if mark in found}
    return found


def _wanted(name: str, given: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The entries and shapes of a network, for the classes and channels of the given ones."""
    expected = _expected(name)
    found = _sizes(expected, given)
    return {entry: tuple(found.get(n, n) for n in shape) for entry, (_, shape) in expected.items()}


def _entry(path: tuple[str, ...]) -> str:
    modules = [re.sub(r"_(\d+)", r".\1", part) for part in path[1:-1]]
    return ".".join([*modules, _ENTRY[path[-1]]])


def _to_ours(leaf: str, value: np.ndarray) -> np.ndarray:
    if leaf != "kernel":
        return value
    return value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)


def _to_theirs(leaf: str, value: np.ndarray) -> np.ndarray:
    if leaf != "kernel":
        return value
    return value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)


def _torch_shape(leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return _to_theirs(leaf, np.broadcast_to(np.float32(0), shape)).shape


def _difference(name: str, wanted: dict[str, tuple], given: dict[str, tuple]) -> str:
    differing = [entry for entry in sorted(wanted | given) if wanted.get(entry) != given.get(entry)]
    width = max(map(len, differing))
    lines = [
        f"  {entry:<{width}}  {wanted.get(entry, 'absent')!s:<20}  {given.get(entry, 'absent')}"
        for entry in differing
    ]
    fitting = [other for other in networks.MODELS if _wanted(other, given) == given]
    hint = f"; it fits {' and '.join(fitting)}" if fitting else ""
    header = f"  {'entry':<{width}}  {name + ' has':<20}  the state dict has"
    return "\n".join(
        [f"the state dict does not fit {name} in {len(differing)} entries{hint}:", header, *lines]
    )
