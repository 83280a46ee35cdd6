"""Tensors of a TorchScript archive, such as OpenAI's CLIP; its code is never looked at.

Modules become dicts of what they hold. Of the pickle in it only tensors, numbers and containers are
made, by a fixed list of names; no library is needed for that.
"""

import collections
import math
import pathlib
import pickle
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from rrd_jax import errors

_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class _Module:
    """An object of the archive's code, of which only attributes are made."""


class _Unpickler(pickle.Unpickler):
    """Makes what a pickle of TorchScript holds, and refuses all names but a few."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(archive.open(f"{folder}data.pkl"))
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the pickle."""
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        raise pickle.UnpicklingError(f"{module}.{name} is not made")

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The numbers of a storage."""
        _, dtype, key, _, count = pid
        content = self._archive.read(f"{self._folder}data/{int(key)}")
        return np.frombuffer(content, dtype, count)


def _tensor(storage: np.ndarray, offset: int, shape: Any, strides: Any, *_: Any) -> np.ndarray:
    shape, strides = tuple(shape), tuple(strides)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min((offset, *shape, *strides)) < 0 or (math.prod(shape) and last >= len(storage)):
        raise pickle.UnpicklingError("a tensor lies beyond its storage")
    steps = tuple(stride * storage.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False).copy()


def _parameter(value: np.ndarray, *_: Any) -> np.ndarray:
    return value


def read(path: pathlib.Path) -> Any:
    """Dicts of arrays, as the modules of an archive hold them.

    Args:
      path: a zip of `torch.jit.save`, whose members are whole.

    Raises:
      InputError: it holds something else than modules and tensors, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            folder = next(n for n in names if n.endswith("data.pkl")).removesuffix("data.pkl")
            return _plain(_Unpickler(archive, folder).load())
    except Exception as error:  # pickles may hold anything
        raise errors.InputError(
            f"{path} is TorchScript, and cannot be read ({error}): save its weights alone, with"
            " torch.save(torch.jit.load(FILE, 'cpu').state_dict(), FILE)"
        ) from error


def _plain(value: Any) -> Any:
    """Modules as dicts of what they hold."""
    if isinstance(value, _Module):
        return {name: _plain(part) for name, part in vars(value).items()}
    return value
